"""How late the event loop is: what every message, timer and receipt waits before we even look at it.

A timer asks to be woken on a grid of 10 ms; how much later it is woken is the lag. A loop that stands still for 100 ms
is late for ten points of the grid, and all ten are counted, so a percentile says what somebody who arrived at any
instant would have waited (Tene's coordinated omission: counting one late timer would hide the other nine).

About a millisecond is the timer itself: `epoll` counts in whole ones. Costs a tenth of a percent of a core and no
memory that grows.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LagSummary", "Lags", "LoopLag"]

TICK_S = 0.01
"""Between two points of the grid."""
_LEAST_S = 1e-4
"""Everything below counts as this."""
_PER_OCTAVE = 8
"""Buckets for each doubling: a percentile is right to 9 %."""
_N_BUCKETS = 20 * _PER_OCTAVE
"""Up to 100 s; whatever is later lies in the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LagSummary:
    """Milliseconds: half of the time the loop was less late than p50, 99 % of it less than p99, never more than max."""

    p50: float
    p99: float
    max: float


class Lags:
    """A histogram of seconds, in buckets that grow with the value."""

    def __init__(self) -> None:
        self._counts = [0] * _N_BUCKETS
        self._n = 0
        self._max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one lag."""
        bucket = int(_PER_OCTAVE * math.log2(max(seconds, _LEAST_S) / _LEAST_S))
        self._counts[min(bucket, _N_BUCKETS - 1)] += 1
        self._n += 1
        self._max_s = max(self._max_s, seconds)

    def summary(self) -> LagSummary | None:
        """Return what was counted, None if nothing was."""
        if not self._n:
            return None
        return LagSummary(p50=self._percentile_ms(0.5), p99=self._percentile_ms(0.99), max=_shown(self._max_s))

    def _percentile_ms(self, share: float) -> float:
        """Return the upper bound of the bucket that holds the percentile, at most the maximum."""
        wanted, n_seen = share * self._n, 0
        for bucket, n in enumerate(self._counts):
            n_seen += n
            if n_seen >= wanted:
                return _shown(min(self._max_s, _LEAST_S * 2.0 ** ((bucket + 1) / _PER_OCTAVE)))
        return _shown(self._max_s)


class LoopLag:
    """Measures while `run` runs: over the whole life of the process, and over one round after the other.

    Args:
        clock: seconds, for tests; None: the loop's own.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._life, self._round = Lags(), Lags()

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        clock = self._clock or loop.time
        due = clock() + TICK_S
        while True:
            await asyncio.sleep(due - clock())
            due = self.woken(due, clock())

    def woken(self, due: float, now: float) -> float:
        """Count every point of the grid from `due` to `now`; return the next one.

        Args:
            due: when the timer was to wake us, in seconds.
            now: when it did.
        """
        while due <= now:
            self._life.add(now - due)
            self._round.add(now - due)
            due += TICK_S
        return due

    def over_the_run(self) -> LagSummary | None:
        """Return the lag since this process began to serve, None before the first measurement."""
        return self._life.summary()

    def end_round(self) -> LagSummary | None:
        """Return the lag since the round before, and begin anew."""
        summary, self._round = self._round.summary(), Lags()
        return summary


def _shown(seconds: float) -> float:
    return round(1000.0 * seconds, 2)
