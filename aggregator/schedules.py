"""How a learning rate goes over the versions: a factor on it, as a function of the version.

Version 0 is the first model: what is trained from it has the factor of version 0, and so has the step to version 1.
Every factor is over 0: a rate of 0 would let devices work for nothing.

* `Constant`: choose it first.
* `Exponential`: γ^v. For a run without a fixed end.
* `Steps`: γ^⌊v/every⌋. Where plateaus are wanted, as for images.
* `Cosine`: Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017, arXiv 1608.03983),
  eq. 5, without restarts: least + (1 − least) (1 + cos(π v/V))/2, and `least` from version V on. For a run whose number
  of versions is known; it spends most of them near the full rate, and ends at a low one.
* `WarmUp`: before any of them, (v + 1)/(n + 1) in the first n versions; Goyal et al., "Accurate, Large Minibatch SGD"
  (2017, arXiv 1706.02677), §2.2, begins at a small rate in the same way. Where the first deltas are the largest.

Pure. Not here: a user's own (`schedule_loading.py`), the rates (`learning_rates.py`).
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from aggregator.schedule_settings import ScheduleSettings
from shared.errors import InvalidState

__all__ = ["Constant", "Cosine", "Exponential", "Schedule", "Steps", "WarmUp", "built_in_schedule"]


class Schedule(Protocol):
    """A pure function of the version."""

    def factor(self, version: int) -> float:
        """Return what the learning rate is multiplied with in a version, finite and over 0.

        Args:
            version: >= 0, counted from the end of the warm-up.
        """


class Constant:
    """1."""

    def factor(self, version: int) -> float:
        return 1.0


class Exponential:
    """factor^version, at least `least`."""

    def __init__(self, factor: float, least: float) -> None:
        self._factor, self._least = factor, least

    def factor(self, version: int) -> float:
        return max(self._factor**version, self._least)


class Steps:
    """factor^⌊version/every⌋, at least `least`."""

    def __init__(self, factor: float, every: int, least: float) -> None:
        self._factor, self._every, self._least = factor, every, least

    def factor(self, version: int) -> float:
        return max(self._factor ** (version // self._every), self._least)


class Cosine:
    """From 1 at version 0 to `least` at `versions`, along half a cosine."""

    def __init__(self, versions: int, least: float) -> None:
        self._versions, self._least = versions, least

    def factor(self, version: int) -> float:
        part = min(version, self._versions) / self._versions
        return self._least + (1 - self._least) * (1 + math.cos(math.pi * part)) / 2


class WarmUp:
    """In the first `versions` the factor rises in a line; then `then` begins, at its version 0."""

    def __init__(self, versions: int, then: Schedule) -> None:
        self._versions, self._then = versions, then

    def factor(self, version: int) -> float:
        if version < self._versions:
            return (version + 1) / (self._versions + 1)
        return self._then.factor(version - self._versions)


class _NotLoaded:
    """Stands for a user's schedule where no work is given out, as when a journal is looked at."""

    def factor(self, version: int) -> float:
        raise InvalidState("the schedule was not loaded")


_OURS: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {"constant": Constant, "exponential": Exponential, "step": Steps, "cosine": Cosine}
)


def built_in_schedule(settings: ScheduleSettings, own: Schedule | None = None) -> Schedule:
    """Return one of our own schedules, behind its warm-up.

    Args:
        settings: of one rate.
        own: a user's, where the settings name that; None: there it must not be asked.
    """
    make = _OURS.get(settings.name)
    schedule = make(**settings.numbers) if make is not None else own or _NotLoaded()
    return WarmUp(settings.warm_up, schedule) if settings.warm_up else schedule
