"""When a simulated broker crashes by itself, and for how long it is gone.

A timer runs only once somebody has connected: a program in which nothing will ever happen is noticed, as with links.
"""

import asyncio
from collections.abc import Callable
from random import Random

from broker.faults import Faults

__all__ = ["Crashes"]


class Crashes:
    """The one timer until the next crash, or until the present one is over.

    Args:
        rng: when, and for how long.
        die: what a crash does.
        come_back: what ends it.
    """

    def __init__(self, rng: Random, die: Callable[[], None], come_back: Callable[[], None]) -> None:
        self._rng = rng
        self._die = die
        self._come_back = come_back
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, faults: Faults) -> None:
        """Draw the time of the next crash, if none is drawn and `faults` wants any."""
        if faults.crash_every_s is not None and self._timer is None:
            after_s = self._rng.expovariate(1.0 / faults.crash_every_s)
            self._timer = asyncio.get_running_loop().call_later(after_s, self._crash, faults.crash_lasts_s)

    def disarm(self) -> None:
        """Forget what was drawn."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _crash(self, lasts_s: float) -> None:
        self._die()
        after_s = lasts_s * self._rng.uniform(0.5, 1.5)
        self._timer = asyncio.get_running_loop().call_later(after_s, self._come_back)
