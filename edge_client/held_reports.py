"""Finished reports without a final outcome, and when each is offered again.

An offer is also the question what became of it. A report is asked for with growing patience, *parked* when three
offers went unanswered or another run is served, and given up a minute after its run has finished.

Pure. Not here: the bytes (`outbox.py`), which chunk next (`upload.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from edge_client.config import TimerSettings
from edge_client.events import HeldReport
from edge_client.phases import LiveLease
from shared.errors import InvalidState
from shared.messages import Holding, RetryWindow

__all__ = ["OFFERS_UNTIL_PARKED", "HeldReports", "earliest", "jittered"]

OFFERS_UNTIL_PARKED = 3
JITTER = 0.2


def earliest(*instants: float | None) -> float | None:
    """Return the first to come, None if there is none; a loop, for every event of every device asks."""
    first = None
    for at in instants:
        if at is not None and (first is None or at < first):
            first = at
    return first


def jittered(seconds: float, rng: Random) -> float:
    """Return a wait within ± 20 % of `seconds`."""
    return seconds * rng.uniform(1 - JITTER, 1 + JITTER)


@dataclass(slots=True, kw_only=True)
class _Schedule:
    report: HeldReport
    patience_s: float
    unanswered: int = 0
    is_parked: bool = False
    is_put_off: bool = False
    offer_at: float | None = None  # None: not connected, or chunks are on their way
    give_up_at: float | None = None


class HeldReports:
    """The reports and their timers. All instants are loop seconds.

    Args:
        timers: how long to wait.
        rng: where the jitter comes from.
        held: what the outbox had at the start; parked until somebody answers.
    """

    def __init__(self, timers: TimerSettings, rng: Random, held: Iterable[HeldReport] = ()) -> None:
        self._timers, self._rng = timers, rng
        self._served: str | None = None
        self._schedules: dict[str, _Schedule] = {}
        for report in held:
            self._schedules[report.lease] = _Schedule(report=report, patience_s=timers.receipt_min_s)

    def __contains__(self, lease: str) -> bool:
        return lease in self._schedules

    def __len__(self) -> int:
        return len(self._schedules)

    def __getitem__(self, lease: str) -> HeldReport:
        return self._schedules[lease].report

    @property
    def reports(self) -> list[HeldReport]:
        """All of them, those of the served run first."""
        return sorted((s.report for s in self._schedules.values()), key=lambda r: r.run != self._served)

    def holdings(self, live: LiveLease | None) -> list[Holding]:
        """Return every lease that this device still has: the one it works on first, then the reports."""
        holds = [Holding(lease=report.lease, run=report.run) for report in self.reports]
        if live is not None and live.lease not in self:
            holds.insert(0, Holding(lease=live.lease, run=live.run))
        return holds

    def is_parked(self, lease: str) -> bool:
        """Whether the device is idle in spite of this report."""
        return self._schedules[lease].is_parked

    @property
    def deadline(self) -> float | None:
        """When the next offer is due, or the next report is given up."""
        if not self._schedules:
            return None
        instants = (at for s in self._schedules.values() for at in (s.offer_at, s.give_up_at) if at is not None)
        return min(instants, default=None)

    def add(self, report: HeldReport) -> None:
        """Take a report that has just become durable."""
        if report.lease in self._schedules:
            raise InvalidState(f"lease {report.lease} is held already")
        is_parked = self._served is not None and report.run != self._served
        self._schedules[report.lease] = _Schedule(
            report=report, patience_s=self._timers.receipt_min_s, is_parked=is_parked
        )

    def remove(self, lease: str) -> None:
        """Forget a report whose outcome is final."""
        del self._schedules[lease]

    def park(self, lease: str) -> None:
        """Let newer work pass."""
        self._schedules[lease].is_parked = True

    def offer(self, lease: str, now: float) -> None:
        """Count an offer that is being made, and arm the timer for the next."""
        schedule = self._schedules[lease]
        schedule.unanswered += 1
        self._arm(schedule, now)
        schedule.patience_s = min(self._timers.receipt_max_s, 2 * schedule.patience_s)

    def sent(self, lease: str, now: float) -> None:
        """The offer is acknowledged: the wait for its answer begins here."""
        schedule = self._schedules.get(lease)
        if schedule is not None and schedule.offer_at is not None:
            schedule.offer_at = max(schedule.offer_at, now + jittered(self._timers.receipt_min_s, self._rng))

    def granted(self, lease: str, now: float) -> None:
        """Chunks are wanted: no question is due while they are on their way."""
        schedule = self._answered(self._schedules[lease], now)
        schedule.offer_at, schedule.is_put_off = None, False

    def drained(self, lease: str, now: float) -> None:
        """All that was granted is acknowledged: the wait for the next receipt begins here."""
        schedule = self._schedules.get(lease)
        if schedule is not None:
            self._arm(schedule, now)

    def wait(self, lease: str, now: float, retry_s: RetryWindow | None) -> bool:
        """The aggregator is paused: keep the report, ask again later. Returns whether that is new."""
        schedule = self._answered(self._schedules[lease], now)
        is_new, schedule.is_put_off = not schedule.is_put_off, True
        if retry_s is None:
            self._arm(schedule, now)
        else:
            schedule.offer_at = now + self._rng.uniform(retry_s.min, max(retry_s.min, retry_s.max))
        return is_new

    def offer_within(self, lease: str, now: float, window_s: float) -> None:
        """Let a report be offered at a random instant of a window."""
        self._schedules[lease].offer_at = now + self._rng.uniform(0.0, window_s)

    def serve(self, run: str) -> list[str]:
        """Somebody serves this run: park what is not of it, and return what was parked and is to be offered."""
        self._served = run
        wanted: list[str] = []
        for lease, schedule in self._schedules.items():
            if schedule.report.run != run:
                schedule.is_parked = True
            elif schedule.is_parked:
                schedule.is_parked, schedule.unanswered = False, 0
                wanted.append(lease)
        return wanted

    def finish(self, run: str, now: float) -> list[str]:
        """A run has finished: return its leases; they are given up soon unless somebody answers."""
        leases = [lease for lease, s in self._schedules.items() if s.report.run == run]
        for lease in leases:
            schedule = self._schedules[lease]
            if schedule.give_up_at is None:
                schedule.give_up_at = now + self._timers.finish_s
        return leases

    def connection_lost(self) -> None:
        """Stop all timers; everything is offered anew on the next connection."""
        for schedule in self._schedules.values():
            schedule.offer_at = schedule.give_up_at = None
            schedule.patience_s = self._timers.receipt_min_s

    def due(self, now: float) -> tuple[list[str], list[str]]:
        """Return the leases to offer now, and those to give up; park what has gone unanswered too often."""
        offers, given_up = [], []
        for lease, schedule in self._schedules.items():
            if schedule.give_up_at is not None and schedule.give_up_at <= now:
                given_up.append(lease)
            elif schedule.offer_at is not None and schedule.offer_at <= now:
                if schedule.unanswered >= OFFERS_UNTIL_PARKED and not schedule.is_parked:
                    schedule.is_parked = True
                    self._arm(schedule, now)
                else:
                    offers.append(lease)
        return offers, given_up

    def _answered(self, schedule: _Schedule, now: float) -> _Schedule:
        schedule.unanswered, schedule.patience_s = 0, self._timers.receipt_min_s
        schedule.is_parked = self._served is not None and schedule.report.run != self._served
        if schedule.give_up_at is not None:
            schedule.give_up_at = now + self._timers.finish_s
        return schedule

    def _arm(self, schedule: _Schedule, now: float) -> None:
        wait_s = self._timers.parked_offer_s if schedule.is_parked else schedule.patience_s
        schedule.offer_at = now + jittered(wait_s, self._rng)
