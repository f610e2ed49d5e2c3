"""How often one device may be asked: rounds between two of its participations, and leases a day.

Bonawitz et al., "Towards Federated Learning at Scale" (arXiv 1902.01046) §2.3 steer when devices come back, so that
none is asked out of turn and none asks in vain; a least separation is what accounts of privacy without amplification
rest on, so it holds whatever happens: a run that finds nobody else waits.

Made of LEASE rows alone, so a restart finds it again. Nothing is kept of a quota that is not set. Instants are Unix
seconds: a day goes on while nobody serves the run.

Pure. Not here: who is drawn of those that may be asked (`selection.py`).
"""

from collections import deque

from aggregator.config import SelectionSettings
from aggregator.records import LeaseRecord
from shared.messages import Kind

__all__ = ["DAY_S", "Quotas"]

DAY_S = 86_400.0
ROUNDS_LOOKED_BACK = 5
"""Whose lengths say how long the next will take."""


class Quotas:
    """The quotas of one run.

    Args:
        settings: `[selection]`.
    """

    def __init__(self, settings: SelectionSettings) -> None:
        self._separation, self._a_day = settings.min_separation, settings.max_per_day
        self._rounds: dict[str, int] = {}  # device -> the last round that asked it
        self._instants: dict[str, deque[float]] = {}  # device -> when it was given its newest leases
        self._begun: deque[float] = deque(maxlen=ROUNDS_LOOKED_BACK + 1)

    @property
    def are_set(self) -> bool:
        """Whether anybody can be barred at all."""
        return self._separation > 1 or self._a_day is not None

    def asked(self, lease: LeaseRecord) -> None:
        """A lease was given; evaluations do not count."""
        if lease.kind is not Kind.TRAIN:
            return
        if self._separation > 1:
            self._rounds[lease.device] = lease.round_id
        if self._a_day is not None:
            self._instants.setdefault(lease.device, deque(maxlen=self._a_day)).append(lease.given_at_s)

    def round_began(self, now: float) -> None:
        """A round begins, in any clock: what is learned is how long rounds take."""
        self._begun.append(now)

    def bars(self, device: str, round_id: int, at_s: float) -> bool:
        """Return whether a device must not be asked.

        Args:
            device: its id.
            round_id: that would ask.
            at_s: Unix time.
        """
        return self.wait_s(device, round_id, at_s) > 0

    def wait_s(self, device: str, round_id: int, at_s: float) -> float:
        """Return in how many seconds a device may be asked again; 0: now. Of rounds, as long as the last ones took."""
        n_rounds = self._rounds[device] + self._separation - round_id if device in self._rounds else 0
        wait_s = max(0, n_rounds) * self._round_s
        instants = self._instants.get(device)
        if instants is not None and len(instants) == self._a_day:
            # a clock that was set back must not bar a device for longer than a day
            wait_s = max(wait_s, min(DAY_S, instants[0] + DAY_S - at_s))
        return wait_s

    @property
    def _round_s(self) -> float:
        """Seconds from the begin of one round to the next, on average; 1 before there are two: at least it is not 0."""
        if len(self._begun) < 2:
            return 1.0
        return max(1e-3, (self._begun[-1] - self._begun[0]) / (len(self._begun) - 1))
