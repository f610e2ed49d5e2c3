"""How long a round collects, from how long reports took before.

Within the bounds of the configuration: 1.5 x the 95th percentile of the last five rounds' reporting times; the upper
bound until there is one.
"""

from collections import deque

from aggregator.config import Window

__all__ = ["ReportingWindow"]

ROUNDS_REMEMBERED = 5
PERCENTILE = 0.95
ALLOWANCE = 1.5


class ReportingWindow:
    """Remembers the seconds from lease to accepted report, a round at a time."""

    def __init__(self, bounds: Window) -> None:
        self._bounds = bounds
        self._rounds: deque[list[float]] = deque(maxlen=ROUNDS_REMEMBERED)
        self._current: list[float] = []

    def reported(self, seconds: float) -> None:
        """Note how long a report took."""
        self._current.append(seconds)

    def round_ended(self) -> None:
        """Close the books of a round; one without reports says nothing."""
        if self._current:
            self._rounds.append(self._current)
            self._current = []

    @property
    def seconds(self) -> float:
        """The window of the next round in seconds."""
        times = sorted(time for times in self._rounds for time in times)
        if not times:
            return self._bounds.max
        p95 = times[min(len(times) - 1, int(PERCENTILE * len(times)))]
        return min(self._bounds.max, max(self._bounds.min, ALLOWANCE * p95))
