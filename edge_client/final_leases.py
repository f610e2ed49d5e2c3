"""The last leases whose outcome was final: an assignment that names one of them is ignored.

Pure. Not here: keeping them on disk (`outbox.py`).
"""

from collections import deque
from collections.abc import Iterable, Iterator

__all__ = ["KEPT_FINALS", "FinalLeases"]

KEPT_FINALS = 64
"""Final leases a device remembers."""


class FinalLeases:
    """Leases, oldest first; beyond `KEPT_FINALS` the oldest is forgotten.

    Args:
        leases: known from before.
    """

    def __init__(self, leases: Iterable[str] = ()) -> None:
        self._leases: deque[str] = deque(leases, maxlen=KEPT_FINALS)

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
