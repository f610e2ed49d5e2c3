"""The clock of a round: when it may begin, how long it collects, how often it was extended.

A round collects for 1.5 x the 95th percentile of the last five rounds' reporting times, within the bounds of the
configuration; the upper bound until there is one. A window that ends without a quorum grows by half; an abandoned
round is followed by a back-off that doubles from the lower bound to the upper.
"""

import math
from collections import deque

from aggregator.config import RoundSettings

__all__ = ["RoundTimer"]

ROUNDS_REMEMBERED = 5
PERCENTILE = 0.95
ALLOWANCE = 1.5


class RoundTimer:
    """All instants are in the clock of `now`, in seconds."""

    def __init__(self, settings: RoundSettings) -> None:
        self._settings = settings
        self._rounds: deque[list[float]] = deque(maxlen=ROUNDS_REMEMBERED)
        self._current: list[float] = []
        self._p95: float | None = None  # of those rounds
        self._began_at = 0.0
        self._n_abandoned = 0  # in a row
        self.n_extensions = 0
        self.closes_at = math.inf
        """End of the reporting window; infinite outside of it."""
        self.begins_at = -math.inf
        """End of the back-off after an abandoned round; minus infinite outside of it."""

    @property
    def window_s(self) -> float:
        """How long the next round collects."""
        bounds = self._settings.window_s
        return bounds.max if self._p95 is None else min(bounds.max, max(bounds.min, ALLOWANCE * self._p95))

    @property
    def lease_s(self) -> float:
        """How long a lease lives without progress."""
        return self._settings.lease_s or self.window_s

    @property
    def deadline(self) -> float | None:
        """When the window or the back-off ends; None: neither is under way."""
        if self.closes_at < math.inf:
            return self.closes_at
        return self.begins_at if self.begins_at > -math.inf else None

    def left_s(self, now: float) -> float | None:
        """Return what is left of the reporting window, None outside of it."""
        return max(0.0, self.closes_at - now) if self.closes_at < math.inf else None

    def begin(self, now: float) -> None:
        """A round begins to collect."""
        self._began_at, self.n_extensions, self.begins_at = now, 0, -math.inf
        self.closes_at = now + self.window_s

    def go_on(self, now: float, left_s: float, n_extensions: int) -> None:
        """A round that was collecting before a restart goes on with what was left of its window."""
        self._began_at, self.n_extensions, self.closes_at = now, n_extensions, now + left_s

    def reported(self, seconds: float) -> None:
        """Note how long an accepted report took, from lease to verdict."""
        self._current.append(seconds)

    def extend(self, now: float) -> bool:
        """Let the window grow by half; return False when it has grown often enough."""
        if self.n_extensions >= self._settings.extensions:
            return False
        self.n_extensions += 1
        self.closes_at = now + self.window_s / 2
        return True

    def close(self) -> None:
        """The round collects no more."""
        self.closes_at = math.inf

    def end(self, now: float, *, is_committed: bool) -> float:
        """Close the books of a round; return how long it took. A round without reports says nothing about windows."""
        self.close()
        if self._current:
            self._rounds.append(self._current)
            self._current = []
            times = sorted(time for times in self._rounds for time in times)
            self._p95 = times[min(len(times) - 1, int(PERCENTILE * len(times)))]
        if is_committed:
            self._n_abandoned, self.begins_at = 0, -math.inf
        else:
            bounds = self._settings.window_s
            self.begins_at = now + min(bounds.max, bounds.min * 2.0 ** min(self._n_abandoned, 16))
            self._n_abandoned += 1
        return now - self._began_at

    def moved(self, seconds: float) -> None:
        """The engine was paused for that long."""
        self.closes_at += seconds
        self.begins_at += seconds
