"""How many more leases the disk can bear.

A lease is a promise to take an update of `max_bytes`, and an offer under a lease is never refused for disk: so the
budget limits leases. It counts outstanding and expired leases x `max_bytes` and the files of accepted updates against
what the disk has for updates once the versions have their place. A rule over a cohort writes each accepted update a
second time, as a row: that is counted, too.

Not here: looking at the disk (`upkeep.py`), and what happens when it is full all the same (`round_machine.py`).
"""

from aggregator.leases import LeaseBook
from aggregator.tally import Tally

__all__ = ["DiskBudget"]


class DiskBudget:
    """Counts in the engine's own books.

    Args:
        leases, tally: read only.
        max_bytes: of one update.
        row_bytes: of what the rule writes of it; 0 for a rule that streams.
    """

    def __init__(self, leases: LeaseBook, tally: Tally, max_bytes: int, row_bytes: int = 0) -> None:
        self._leases, self._tally, self.max_bytes, self.row_bytes = leases, tally, max_bytes, row_bytes
        self.for_updates: int | None = None
        """Bytes that updates may take in all, those that are there included; None: the disk was not looked at yet."""

    @property
    def promised(self) -> int:
        """Bytes that updates take, or may take under the leases that are not final."""
        rows = self.row_bytes * self._leases.n_open_train
        return self._leases.promised_bytes + self._tally.n_bytes + rows + self.rows_there

    @property
    def rows_there(self) -> int:
        """Bytes of the rows of accepted updates whose version is not made yet; their file has no name."""
        return self.row_bytes * self._tally.n_buffered

    def n_leases(self, wanted: int) -> int:
        """Return how many of so many leases can be given now, 0 if none can."""
        if self.for_updates is None or not wanted:
            return wanted
        return max(0, min(wanted, (self.for_updates - self.promised) // (self.max_bytes + self.row_bytes)))

    @property
    def is_spent(self) -> bool:
        """Whether not even one more lease can be given."""
        return self.n_leases(1) == 0
