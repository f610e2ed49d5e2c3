"""The engine: when a round begins, how many are asked, when it is enough.

Sans-IO with time: `handle(event, now)` returns the commands to carry out, in order; `deadline` says when to call again
with `DeadlinePassed`. It sees envelopes, never tensors. Phases and exits are those of `phases.py`. A round always ends:
REPORTING has a deadline, and abandoning is a normal transition.

Bonawitz et al., "Towards Federated Learning at Scale" (arXiv 1902.01046) §2.2: goal, window, over-selection, abandoned
rounds. Differs: an abandoned round hands its accepted updates on, and its leases stay good.

Not here: who is drawn (`selection.py`), who may be asked and with what (`invitations.py`), what a lease may become
(`leases.py`), what counts (`tally.py`), whether bytes are believed (`admission.py`), how a restart reads the journal
back (`recovery.py`).
"""

import math
from typing import assert_never

from aggregator import events as ev
from aggregator.config import Settings
from aggregator.events import Command, Journal
from aggregator.federated_evaluation import FederatedEvaluation
from aggregator.invitations import Invitations, receipt_of
from aggregator.leases import LeaseBook, LeaseState
from aggregator.phases import PHASES, PauseCause, Phase
from aggregator.population import Population
from aggregator.records import (
    AbandonRecord,
    CloseRecord,
    CommitRecord,
    FinishRecord,
    RoundRecord,
    VoidRecord,
)
from aggregator.reporting_window import ReportingWindow
from aggregator.reports import Reports
from aggregator.stopping import Stopping
from aggregator.tally import Tally
from shared.errors import InvalidState, Reason
from shared.messages import Kind, RoundOutcome

__all__ = ["RoundMachine"]

BROKER_GONE_S = 60.0


class RoundMachine:
    """One run's engine.

    Args:
        settings: of the run.
        max_bytes: largest encoded update.
        lease_prefix: makes lease ids of this start of the aggregator unlike those of any other.
    """

    def __init__(self, settings: Settings, *, max_bytes: int, lease_prefix: str) -> None:
        self.settings = settings
        self.phase = Phase.WAITING
        self.round_id = 0
        self.last_outcome: RoundOutcome | None = None
        self.metrics: dict[str, float] = {}
        self.causes: dict[PauseCause, str] = {}
        self.n_extensions = 0
        self.leases = LeaseBook()
        self.tally = Tally(settings, self.leases)
        self.population = Population()
        self.invitations = Invitations(
            settings, self.leases, self.tally, self.population, max_bytes=max_bytes, lease_prefix=lease_prefix
        )
        self.evaluation = FederatedEvaluation(settings.evaluation)
        self.reports = Reports(self.leases, self.tally, self.population, self.evaluation)
        self.stopping = Stopping(settings.stop)
        self.window = ReportingWindow(settings.round.window_s)
        self.closes_at = math.inf  # end of the reporting window
        self._held_back: list[ev.Event] = []  # verdicts that came while paused
        self._resume_to = Phase.WAITING
        self._paused_at = 0.0
        self._round_began = 0.0
        self._begins_at = -math.inf  # back-off after an abandoned round
        self._broker_lost_at: float | None = None
        self._n_abandoned = 0

    # what others read

    @property
    def version(self) -> int:
        """The last committed version."""
        return self.tally.version

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended."""
        return self.phase is Phase.FINISHED

    @property
    def lease_s(self) -> float:
        """How long a lease lives without progress, in seconds."""
        return self.settings.round.lease_s or self.window.seconds

    def seconds_left(self, now: float) -> float | None:
        """Return what is left of the reporting window in seconds, None outside of it."""
        if self.phase is Phase.PAUSED and self._resume_to is Phase.REPORTING:
            return max(0.0, self.closes_at - self._paused_at)
        return max(0.0, self.closes_at - now) if self.phase is Phase.REPORTING else None

    def n_at_hand(self, now: float) -> int:
        """Return accepted + outstanding + eligible: what a round could still count on."""
        n_eligible = len(self.invitations.eligible(self.round_id, now))
        return self.tally.n_accepted + self.leases.n_outstanding(Kind.TRAIN) + n_eligible

    @property
    def deadline(self) -> float | None:
        """When to handle `DeadlinePassed`, in the clock of `now`; None: not before another event."""
        times: list[float] = []
        if self._broker_lost_at is not None and PauseCause.BROKER not in self.causes:
            times.append(self._broker_lost_at + BROKER_GONE_S)
        if self.phase is Phase.REPORTING:
            times.append(self.closes_at)
        if self.phase is Phase.WAITING and self._begins_at > -math.inf:
            times.append(self._begins_at)
        if self.phase not in (Phase.PAUSED, Phase.FINISHED):
            times += [lease.expires_at for kind in Kind for lease in self.leases.outstanding(kind)]
            if self.evaluation.closes_at is not None:
                times.append(self.evaluation.closes_at)
        return min(times, default=None)

    def check(self) -> None:
        """Hold the invariants against the whole state.

        Raises:
            InvalidState: one is broken.
        """
        self.leases.check()
        self.tally.check()

    # the entrances

    def restored(self, *, phase: Phase, left_s: float, n_extensions: int, now: float) -> None:
        """Go on where the journal ends: `recovery.py` has read the books back. Call `start` next."""
        self.phase, self.n_extensions, self._round_began = phase, n_extensions, now
        if phase is Phase.REPORTING:
            self.closes_at = now + left_s

    def start(self, now: float) -> list[Command]:
        """Return the first commands of a run, new or restored."""
        commands: list[Command] = [ev.PublishRound()]
        if self.phase is Phase.FINISHED:
            return [*commands, ev.Finish(cause=self.stopping.cause or "rounds")]
        if self.phase is Phase.AGGREGATING:
            commands.append(ev.Aggregate(into=self.version + 1, round_id=self.round_id))
        else:
            commands += self._cancel_surplus()  # those of a round that had just been committed
        return commands + (self._finish_if_due(now) or self._advance(now))

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take one event and return what to do about it, in order.

        Raises:
            InvalidState: only our own bug can cause it.
        """
        if self.phase is Phase.FINISHED:
            return self._handle_after_the_end(event, now)
        if self.phase is Phase.PAUSED and isinstance(event, ev.Verified | ev.Refused):
            self._held_back.append(event)
            return []
        commands = self._handle(event, now)
        if self.evaluation.is_complete:
            commands += self._end_evaluation()
        return commands + (self._finish_if_due(now) or self._advance(now))

    def _handle(self, event: ev.Event, now: float) -> list[Command]:
        match event:
            case ev.CheckedIn():
                return self._checked_in(event, now)
            case ev.DeviceOffline(device=device):
                self.population.offline(device)
                return []
            case ev.Progressed(device=device, lease=name):
                lease = self.leases.get(name)
                if lease is not None and lease.record.device == device:
                    lease.expires_at = max(lease.expires_at, now + self.lease_s)
                return []
            case ev.Offered(lease=name):
                return self.reports.offered(self.leases[name], is_paused=self.phase is Phase.PAUSED)
            case ev.Verified():
                return self._verified(event, now)
            case ev.Refused(lease=name, reason=reason, detail=detail):
                return self.reports.conclude(self.leases[name], LeaseState.REJECTED, reason, detail)
            case ev.Failed(lease=name, reason=reason, detail=detail):
                return self.reports.conclude(self.leases[name], LeaseState.FAILED, reason, detail)
            case ev.Evaluated():
                return self.reports.evaluated(event)
            case ev.VersionWritten():
                return self._version_written(event)
            case ev.Published(version=version):
                return self._published(version, now)
            case ev.AggregationFailed(detail=detail):
                return self._pause(PauseCause.ERROR, detail, now)
            case ev.BrokerLost():
                self._broker_lost_at = now if self._broker_lost_at is None else self._broker_lost_at
                return []
            case ev.BrokerFound():
                self._broker_lost_at = None
                return [*self._unpause({PauseCause.BROKER}, now), ev.PublishRound()]
            case ev.DiskLow():
                return self._pause(PauseCause.DISK, "the disk is nearly full", now)
            case ev.DiskFree():
                return self._unpause({PauseCause.DISK}, now)
            case ev.PauseAsked():
                return self._pause(PauseCause.OPERATOR, "by the operator", now)
            case ev.ResumeAsked(void=void):
                voided = self._void() if void else []
                return voided + self._unpause({PauseCause.OPERATOR, PauseCause.ERROR}, now)
            case ev.StopAsked():
                return self._finish("operator", now)
            case ev.DeadlinePassed():
                return self._deadline_passed(now)
        assert_never(event)

    def _handle_after_the_end(self, event: ev.Event, now: float) -> list[Command]:
        """Nothing moves any more, but every device that asks is answered."""
        match event:
            case ev.CheckedIn(device=device):
                commands, is_waiting = self.invitations.checked_in(event, now)
                return [*commands, self.invitations.come_back(device, Reason.RUN_FINISHED)] if is_waiting else commands
            case ev.Offered(lease=name) | ev.Failed(lease=name) | ev.Evaluated(lease=name):
                return [receipt_of(self.leases[name], repeat=True)]
            case ev.BrokerFound():
                return [ev.PublishRound()]
        return []

    # moving between phases

    def _enter(self, phase: Phase) -> None:
        if phase not in PHASES[self.phase]:
            raise InvalidState(f"the engine cannot go from {self.phase} to {phase}")
        self.phase = phase

    def _advance(self, now: float) -> list[Command]:
        """Leave the phase when its condition holds, and hand out what can be handed out."""
        commands: list[Command] = []
        goal, quorum = self.settings.round.report_goal, self.settings.round.quorum_count
        if self.phase is Phase.WAITING:
            if self.tally.n_accepted >= goal:
                return self._close()
            if now < self._begins_at:
                return []
            self._begins_at = -math.inf
            if self.n_at_hand(now) < quorum:
                return []
            commands += self._begin_round(now)
        if self.phase is Phase.REPORTING:
            if self.tally.n_accepted >= goal:
                return commands + self._close()
            commands += self._invite(now)
            if self.tally.n_accepted >= quorum and not self.leases.n_outstanding(Kind.TRAIN):
                return commands + self._close()
        return commands

    def _begin_round(self, now: float) -> list[Command]:
        self._enter(Phase.REPORTING)
        self.round_id += 1
        self.n_extensions = 0
        self._round_began = now
        self.closes_at = now + self.window.seconds
        self.invitations.forget_settled()
        return [Journal(record=RoundRecord(round_id=self.round_id, into=self.version + 1), then=(ev.PublishRound(),))]

    def _invite(self, now: float) -> list[Command]:
        """Keep ⌈over_selection x (goal - accepted)⌉ leases out."""
        knobs = self.settings.round
        wanted = math.ceil(round(knobs.over_selection * (knobs.report_goal - self.tally.n_accepted), 9))
        wanted -= self.leases.n_outstanding(Kind.TRAIN)
        if wanted <= 0:
            return []
        candidates = self.invitations.eligible(self.round_id, now)
        return self.invitations.invite(Kind.TRAIN, candidates, wanted, self.round_id, self.lease_s, now)

    def _close(self) -> list[Command]:
        self._enter(Phase.AGGREGATING)
        self.closes_at = math.inf
        into = self.version + 1
        aggregate = ev.Aggregate(into=into, round_id=self.round_id)
        return [Journal(record=CloseRecord(into=into, last_seq=self.tally.close()), then=(aggregate,))]

    def _version_written(self, event: ev.VersionWritten) -> list[Command]:
        """The next version is on disk: once its row is durable too, it is the truth."""
        self.tally.commit(event.version)
        record = CommitRecord(version=self.version, round_id=self.round_id, digest=event.digest, metrics=event.metrics)
        self.committed(record)
        return [Journal(record=record, then=(ev.PublishModel(version=self.version),))]

    def committed(self, record: CommitRecord) -> None:
        """Count a committed version towards the end of the run, now or when the journal is read back."""
        self.stopping.committed(record.version)
        if record.metrics:
            self.metrics = {**self.metrics, **dict(record.metrics)}
            self.stopping.evaluated(record.version, dict(record.metrics))

    def _published(self, version: int, now: float) -> list[Command]:
        """The version is on the broker: the round is over."""
        where = self._resume_to if self.phase is Phase.PAUSED else self.phase
        if where is not Phase.AGGREGATING or version != self.version or self.tally.is_closed:
            return []  # published again, after a reconnect or a restart
        if self.phase is Phase.PAUSED:
            self._resume_to = Phase.WAITING
        else:
            self._enter(Phase.WAITING)
        self._n_abandoned = 0
        if self.stopping.cause is not None:
            return self._end_round(RoundOutcome.COMMITTED, now)
        cancelled = self._cancel_surplus()
        ended = self._end_round(RoundOutcome.COMMITTED, now)
        return [*cancelled, *ended, ev.PublishRound(), *self._begin_evaluation(now)]

    def _cancel_surplus(self) -> list[Command]:
        """Work that would lag too far behind is not waited for, in any mode."""
        commands: list[Command] = []
        for lease in self.leases.open(Kind.TRAIN):
            if self.tally.surplus(lease) is not None:
                commands += self.reports.conclude(lease, LeaseState.CANCELLED, Reason.COMMITTED)
        return commands

    def _abandon(self, now: float) -> list[Command]:
        bounds = self.settings.round.window_s
        self._begins_at = now + min(bounds.max, bounds.min * 2.0 ** min(self._n_abandoned, 16))
        self._n_abandoned += 1
        self.closes_at = math.inf
        self._enter(Phase.WAITING)
        commands = self._end_round(RoundOutcome.ABANDONED, now)
        return [Journal(record=AbandonRecord(round_id=self.round_id), then=(ev.PublishRound(),)), *commands]

    def _end_round(self, outcome: RoundOutcome, now: float) -> list[Command]:
        self.last_outcome = outcome
        self.window.round_ended()
        counts = {str(state): n for state, n in self.leases.counts().items()}
        return [
            ev.RoundEnded(
                round_id=self.round_id,
                version=self.version,
                outcome=outcome,
                seconds=now - self._round_began,
                counts={**counts, LeaseState.EXPIRED: self.leases.n_expirations},
                metrics=dict(self.metrics),
            )
        ]

    def _finish_if_due(self, now: float) -> list[Command]:
        """The run ends between rounds, never in the middle of making a version."""
        if self.stopping.cause is None or self.phase not in (Phase.WAITING, Phase.REPORTING):
            return []
        return self._finish(self.stopping.cause, now)

    def _finish(self, cause: str, now: float) -> list[Command]:
        self._enter(Phase.FINISHED)
        self.causes.clear()
        commands: list[Command] = [Journal(record=FinishRecord(cause=cause), then=(ev.PublishRound(),))]
        for lease in self.leases.open():
            commands += self.reports.conclude(lease, LeaseState.DISCARDED, Reason.RUN_FINISHED)
        return [*commands, *self._end_evaluation(), ev.Finish(cause=cause)]

    def _deadline_passed(self, now: float) -> list[Command]:
        lost_at = self._broker_lost_at
        if lost_at is not None and now >= lost_at + BROKER_GONE_S and PauseCause.BROKER not in self.causes:
            return self._pause(PauseCause.BROKER, "the broker is gone", now)
        if self.phase is Phase.PAUSED:
            return []
        for kind in Kind:
            for lease in self.leases.outstanding(kind):
                if now >= lease.expires_at:
                    self.leases.move(lease, LeaseState.EXPIRED)
                    self.evaluation.settled(lease.record.lease)
        is_over = self.evaluation.closes_at is not None and now >= self.evaluation.closes_at
        commands = self._end_evaluation() if is_over else []
        if self.phase is Phase.REPORTING and now >= self.closes_at:
            if self.tally.n_accepted >= self.settings.round.quorum_count:
                return commands + self._close()
            if self.n_extensions < self.settings.round.extensions:
                self.n_extensions += 1
                self.closes_at = now + self.window.seconds / 2
                return commands
            return commands + self._abandon(now)
        return commands

    # pausing

    def _pause(self, cause: PauseCause, detail: str, now: float) -> list[Command]:
        self.causes[cause] = detail
        if self.phase is Phase.PAUSED:
            return [ev.PublishRound()]
        self._resume_to, self._paused_at = self.phase, now
        self._enter(Phase.PAUSED)
        return [ev.PublishRound()]

    def _unpause(self, causes: set[PauseCause], now: float) -> list[Command]:
        failed, resume_to = PauseCause.ERROR in self.causes, self._resume_to
        for cause in causes:
            self.causes.pop(cause, None)
        if self.phase is not Phase.PAUSED or self.causes:
            return []
        paused_s = now - self._paused_at
        self.closes_at += paused_s
        self._begins_at += paused_s
        for lease in self.leases.open():
            lease.expires_at += paused_s
        self.evaluation.moved(paused_s)
        self._enter(resume_to)
        commands: list[Command] = [ev.PublishRound()]
        if failed and resume_to is Phase.AGGREGATING and self.tally.is_closed:
            commands.append(ev.Aggregate(into=self.version + 1, round_id=self.round_id))
        held_back, self._held_back = self._held_back, []
        for event in held_back:
            commands += self._handle(event, now)
        return commands

    def _void(self) -> list[Command]:
        """Throw away what was accepted for the version being built; its round is abandoned."""
        if self.phase is not Phase.PAUSED:
            return []
        into = self.tally.void()
        self._resume_to = Phase.WAITING
        self.closes_at = math.inf
        self.last_outcome = RoundOutcome.ABANDONED
        return [
            Journal(record=VoidRecord(into=into), then=(ev.Forget(into=into),)),
            Journal(record=AbandonRecord(round_id=self.round_id)),
        ]

    # devices and their reports

    def _checked_in(self, event: ev.CheckedIn, now: float) -> list[Command]:
        commands, is_waiting = self.invitations.checked_in(event, now)
        if not is_waiting:
            return commands
        for lease in self.leases.open():
            if lease.record.device == event.device:  # expired, and the device says that it does not have it
                commands += self.reports.conclude(lease, LeaseState.CANCELLED, Reason.SUPERSEDED)
        if self.phase is Phase.PAUSED:
            return [*commands, self.invitations.come_back(event.device, Reason.PAUSED)]
        commands += self._finish_if_due(now) or self._advance(now)
        if self.leases.live_of(event.device) is None:
            commands.append(self.invitations.come_back(event.device, Reason.NOT_DRAWN))
        return commands

    def _verified(self, event: ev.Verified, now: float) -> list[Command]:
        lease = self.leases[event.lease]
        commands = self.reports.verified(event, self.round_id)
        if lease.state is LeaseState.ACCEPTED:
            self.window.reported(now - lease.issued_at)
        return commands

    # federated evaluation

    def _begin_evaluation(self, now: float) -> list[Command]:
        if not self.evaluation.is_due(self.version):
            return []
        knobs = self.settings.evaluation
        candidates = self.invitations.idle(now)
        commands = self.invitations.invite(Kind.EVALUATE, candidates, knobs.devices, self.round_id, knobs.window_s, now)
        if commands:
            names = [lease.record.lease for lease in self.leases.outstanding(Kind.EVALUATE)]
            self.evaluation.begin(self.version, names, now)
        return commands

    def federated_metrics(self, version: int, metrics: dict[str, float]) -> None:
        """Take the combined metrics of an `EvaluationDone`; they stop the run when there is no central evaluation."""
        if self.settings.evaluation.central_every == 0:
            self.metrics = {**self.metrics, **metrics}
            self.stopping.evaluated(version, metrics)

    def _end_evaluation(self) -> list[Command]:
        done = self.evaluation.end()
        return [] if done is None else [done]
