"""What digests cost: `python -m bench.undigested MODULE ARGUMENTS…` runs a program of ours almost without them.

Every sha-256 is replaced by that of the length, the first and the last 32 bytes. Both sides run like this, so that
they still agree. For measuring alone: damage in between would go unnoticed.
"""

import hashlib
import runpy
import sys
from typing import Final, TypeAlias

__all__ = ["Ends"]

_sha256: Final = hashlib.sha256
_ENDS: Final = 32
"""Bytes at either end that count; models of the benchmark differ there from version to version."""
_Bytes: TypeAlias = bytes | bytearray | memoryview


class Ends:
    """As much of a `hashlib` object as programs of ours use. However the data are divided, the digest is the same.

    Args:
        data: the first of them.
    """

    def __init__(self, data: _Bytes = b"") -> None:
        self._length, self._first, self._last = 0, b"", b""
        self.update(data)

    def update(self, data: _Bytes) -> None:
        """See `hashlib`."""
        view = memoryview(data).cast("B")
        self._length += len(view)
        self._first = (self._first + bytes(view[:_ENDS]))[:_ENDS]
        self._last = (self._last + bytes(view[-_ENDS:]))[-_ENDS:]

    def digest(self) -> bytes:
        """See `hashlib`."""
        return _sha256(b"%d %b %b" % (self._length, self._first, self._last)).digest()

    def hexdigest(self) -> str:
        """See `hashlib`."""
        return self.digest().hex()


if __name__ == "__main__":
    hashlib.sha256 = Ends  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
