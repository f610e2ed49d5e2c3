"""The head file: where the journal's chain of checksums ended at the last commit.

Two lines of fixed length, written in turn and synchronised each time, so that one whole line is left whenever the
power fails. A journal that is shorter than its head has lost rows that somebody was told are durable.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from shared.durable import sync_folder
from shared.errors import InvalidState

__all__ = ["Head", "HeadFile"]


@dataclass(frozen=True, slots=True)
class Head:
    """End of the chain.

    Args:
        seq: of the last row, 0 when there is none.
        checksum: of that row, 32 bytes, which covers every row before it.
    """

    seq: int = 0
    checksum: bytes = bytes(32)

    def to_line(self) -> bytes:
        """Return 102 bytes of text: seq, checksum, and the start of a digest over both."""
        text = f"{self.seq:020d} {self.checksum.hex()}"
        return f"{text} {hashlib.sha256(text.encode()).hexdigest()[:15]}\n".encode()

    @classmethod
    def from_line(cls, line: bytes) -> "Head | None":
        """Return what a line says, None when it is torn or was never written."""
        try:
            seq, checksum, _ = line.decode().split(" ")
            head = cls(int(seq), bytes.fromhex(checksum))
        except ValueError:
            return None
        return head if head.to_line() == line else None


_LINE_BYTES = len(Head().to_line())


class HeadFile:
    """The file. Synchronous: to be used in the journal's lane."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._turn = 0

    def read(self) -> Head | None:
        """Return the newest head, None when there is none that can be read; then `create` it, or refuse."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        lines = [os.pread(self._fd, _LINE_BYTES, turn * _LINE_BYTES) for turn in (0, 1)]
        heads = [(head, turn) for turn, line in enumerate(lines) if (head := Head.from_line(line)) is not None]
        if not heads:
            return None
        newest, self._turn = max(heads, key=lambda found: found[0].seq)
        return newest

    def create(self) -> None:
        """Write the head of an empty journal, so that a missing file always means damage."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.write(Head())
        sync_folder(self._path.parent)

    def write(self, head: Head) -> None:
        """Write and synchronise, over the older of the two lines."""
        if self._fd < 0:
            raise InvalidState("the head file is closed")
        self._turn = 1 - self._turn
        os.pwrite(self._fd, head.to_line(), self._turn * _LINE_BYTES)
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
