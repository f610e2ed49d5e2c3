"""One thing that may fail again and again: the first time is said at once, the others are summed up.

Pure. Not here: what failed, and the line that says so.
"""

import math

__all__ = ["SUMMED_UP_S", "Failures"]

SUMMED_UP_S = 60.0
"""Between two lines about the same failure."""


class Failures:
    """How often something has failed since it last went well."""

    def __init__(self) -> None:
        self.n = 0
        self._n_told = 0
        self._told_at = -math.inf

    def failed(self, now: float) -> int:
        """Count a failure; return how many a line would be about that is due now, 0 when none is due.

        Args:
            now: seconds.
        """
        self.n += 1
        if now - self._told_at < SUMMED_UP_S:
            return 0
        n_new = self.n - self._n_told
        self._told_at, self._n_told = now, self.n
        return n_new

    def went_well(self) -> int:
        """Return how often it failed before it went well now, 0 if it did not; from here on it is counted anew."""
        n = self.n
        self.n, self._n_told, self._told_at = 0, 0, -math.inf
        return n
