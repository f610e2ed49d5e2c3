"""The clock of a round: when it may begin, how long it collects, how often it was extended.

A round collects for 1.5 x the 95th percentile of what devices of one class took from lease to verdict in the last five
rounds, within the bounds of the configuration; the upper bound until there is one. Of the classes that were asked the
slowest decides. A lease lives as long as the window of its own class. A window that ends without a quorum grows by
half; an abandoned round is followed by a back-off that doubles from the lower bound to the upper.
"""

import math
from collections import deque
from collections.abc import Iterable

from aggregator.config import RoundSettings

__all__ = ["RoundTimer"]

ROUNDS_REMEMBERED = 5
PERCENTILE = 0.95
ALLOWANCE = 1.5


class RoundTimer:
    """All instants are in the clock of `now`, in seconds."""

    def __init__(self, settings: RoundSettings) -> None:
        self._settings = settings
        self._rounds: deque[dict[str, list[float]]] = deque(maxlen=ROUNDS_REMEMBERED)  # by class of devices
        self._current: dict[str, list[float]] = {}
        self._p95: dict[str, float] = {}  # of those rounds
        self._asked: set[str] = set()  # classes, since the round began
        self._began_at = 0.0
        self._opened_at = 0.0  # as `_began_at`, without the pauses
        self._length_s = settings.window_s.max
        self._n_abandoned = 0  # in a row
        self.n_extensions = 0
        self.closes_at = math.inf
        """End of the reporting window; infinite outside of it."""
        self.begins_at = -math.inf
        """End of the back-off after an abandoned round; minus infinite outside of it."""

    def window_s(self, device_class: str) -> float:
        """Return how long a round collects that asks this class of devices."""
        bounds, p95 = self._settings.window_s, self._p95.get(device_class)
        return bounds.max if p95 is None else min(bounds.max, max(bounds.min, ALLOWANCE * p95))

    def widest_s(self, classes: Iterable[str]) -> float:
        """Return how long a round collects that asks these classes of devices; as long as any, if it asks none."""
        return max(map(self.window_s, classes), default=self._settings.window_s.max)

    def lease_s(self, device_class: str) -> float:
        """Return how long a lease of a device of this class lives without progress."""
        return self._settings.lease_s or self.window_s(device_class)

    def left_for_s(self, device_class: str, now: float) -> float:
        """Return the seconds that an update of this class has to come to count in this round, or in the next."""
        return max(0.0, min(self.window_s(device_class), self.closes_at - now))

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
        """A round begins to collect; call `asked` next."""
        self._began_at = self._opened_at = now
        self.n_extensions, self.begins_at, self._asked = 0, -math.inf, set()
        self._length_s = self._settings.window_s.max
        self.closes_at = now + self._length_s

    def asked(self, classes: Iterable[str]) -> None:
        """Devices of these classes are at work for the round: it collects for as long as the slowest of them needs."""
        if self._asked.issuperset(classes) or self.n_extensions:
            return
        self._asked.update(classes)
        self._length_s = self.widest_s(self._asked)
        self.closes_at = self._opened_at + self._length_s

    def go_on(self, now: float, left_s: float, n_extensions: int, classes: Iterable[str]) -> None:
        """A round that was collecting before a restart goes on with what was left of its window."""
        self._asked, self._length_s = set(classes), self.widest_s(classes)
        self._began_at, self.n_extensions, self.closes_at = now, n_extensions, now + left_s
        self._opened_at = self.closes_at - self._length_s

    def reported(self, device_class: str, seconds: float) -> None:
        """Note how long an accepted report took, from lease to verdict."""
        self._current.setdefault(device_class, []).append(seconds)

    def turn(self) -> None:
        """A version was committed, or a round abandoned: what was reported until now is what is known of it."""
        if not self._current:  # a round without reports says nothing about windows
            return
        self._rounds.append(self._current)
        self._current = {}
        together: dict[str, list[float]] = {}
        for times in self._rounds:
            for device_class, seconds in times.items():
                together.setdefault(device_class, []).extend(seconds)
        self._p95 = {each: _p95(seconds) for each, seconds in together.items()}

    def extend(self, now: float) -> bool:
        """Let the window grow by half; return False when it has grown often enough."""
        if self.n_extensions >= self._settings.extensions:
            return False
        self.n_extensions += 1
        self.closes_at = now + self._length_s / 2
        return True

    def close(self) -> None:
        """The round collects no more."""
        self.closes_at = math.inf

    def end(self, now: float, *, is_committed: bool) -> float:
        """Close the books of a round; return how long it took."""
        self.close()
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
        self._opened_at += seconds


def _p95(seconds: list[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(PERCENTILE * len(ordered)))]
