"""The last leases whose outcome was final: an assignment that names one of them is ignored.

Pure. Not here: keeping them on disk (`outbox.py`).
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator

__all__ = ["FINALS", "KEPT_FINALS", "LEASE", "FinalLeases"]

FINALS = "final_leases"
"""Name of their file."""
LEASE = re.compile("[0-9a-f]{32}")

KEPT_FINALS = 64
"""Final leases a device remembers."""


class FinalLeases:
    """Leases, oldest first; beyond `KEPT_FINALS` the oldest is forgotten.

    Args:
        leases: known from before.
    """

    def __init__(self, leases: Iterable[str] = ()) -> None:
        self._leases: deque[str] = deque(leases, maxlen=KEPT_FINALS)

    @classmethod
    def parsed(cls, data: bytes) -> "FinalLeases":
        """Return what a file of them holds.

        Raises:
            ValueError: it holds something else.
        """
        words = data.decode(errors="replace").split()
        strange = [number for number, word in enumerate(words, 1) if not LEASE.fullmatch(word)]
        if strange:
            raise ValueError(f"line {strange[0]} of {len(words)} is no lease")
        return cls(words)

    def __contains__(self, lease: str) -> bool:
        return lease in self._leases

    def __iter__(self) -> Iterator[str]:
        return iter(self._leases)

    def add(self, lease: str) -> bool:
        """Remember a lease; return whether it was not known yet."""
        if lease in self._leases:
            return False
        self._leases.append(lease)
        return True
