"""The engine: when a round begins, how many are asked, when it is enough.

Sans-IO with time: `handle(event, now)` returns the commands to carry out, in order; `deadline` says when to call again
with `DeadlinePassed`. It sees envelopes, never tensors. Phases and exits are those of `phases.py`. A round always ends:
REPORTING has a deadline, and abandoning is a normal transition.

Bonawitz et al., "Towards Federated Learning at Scale" (arXiv 1902.01046) §2.2: goal, window, over-selection, abandoned
rounds. Differs: an abandoned round hands its accepted updates on, and its leases stay good.

Not here: who is drawn (`selection.py`), who may be asked and with what (`invitations.py`), what a lease may become
(`leases.py`), what counts (`tally.py`), whether bytes are believed (`admission.py`), how a run resumes (`recovery.py`).
"""

import math
from collections.abc import Mapping
from typing import assert_never

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.codec_choice import CodecChoice
from aggregator.commands import Command, Journal
from aggregator.config import Settings
from aggregator.disk_budget import DiskBudget
from aggregator.federated_evaluation import FederatedEvaluation
from aggregator.invitations import Invitations
from aggregator.leases import LeaseBook
from aggregator.pausing import Pausing
from aggregator.phases import PHASES, EndCause, PauseCause, Phase
from aggregator.population import Population
from aggregator.reports import Reports
from aggregator.round_clock import RoundTimer
from aggregator.round_endings import RoundEndings
from aggregator.selection import SelectionRule
from aggregator.stopping import Stopping
from aggregator.tally import Tally
from shared.errors import ConfigError, InvalidState, Reason
from shared.messages import Kind, RoundOutcome

__all__ = ["RoundMachine"]


class RoundMachine:
    """One run's engine.

    Args:
        settings: of the run.
        update_bytes: of an update at most, by its codec (`codec_choice.sizes_of`).
        lease_prefix: makes lease ids of this start of the aggregator unlike those of any other.
        rule: who is asked; None: as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        update_bytes: Mapping[str, int],
        lease_prefix: str,
        rule: SelectionRule | None = None,
    ) -> None:
        self.settings = settings
        self.phase = Phase.WAITING
        self.round_id = 0
        self.last_outcome: RoundOutcome | None = None
        self.leases = LeaseBook()
        self.tally = Tally(settings, self.leases)
        self.population = Population()
        codecs = CodecChoice(settings, update_bytes)
        row_bytes = 0 if settings.server.rule.is_streaming else update_bytes["float32"]
        self.disk = DiskBudget(self.leases, self.tally, codecs.largest_bytes, row_bytes)
        self.invitations = Invitations(
            settings, self.leases, self.tally, self.population, rule, codecs=codecs, lease_prefix=lease_prefix
        )
        self.evaluation = FederatedEvaluation(settings.evaluation, self.invitations)
        self.timer = RoundTimer(settings.round)
        self.reports = Reports(self.leases, self.tally, self.population, self.evaluation, self.timer)
        self.stopping = Stopping(settings.stop)
        self.pausing = Pausing()
        self._endings = RoundEndings(settings.round, self.leases, self.tally, self.timer, self.stopping, self.reports)
        self._restored_at: float | None = None

    # what others read

    @property
    def version(self) -> int:
        """The last committed version."""
        return self.tally.version

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended."""
        return self.phase is Phase.FINISHED

    def seconds_left(self, now: float) -> float | None:
        """Return what is left of the reporting window in seconds, None outside of it."""
        return self.timer.left_s(self._running(now))

    def n_at_hand(self, now: float) -> int:
        """Return accepted + outstanding + eligible: what a round could still count on."""
        return self.tally.n_accepted + self.leases.n_outstanding(Kind.TRAIN) + len(self.invitations.eligible(now))

    @property
    def deadline(self) -> float | None:
        """When to handle `DeadlinePassed`, in the clock of `now`; None: not before another event."""
        if self.phase is Phase.FINISHED:
            return None
        times = [self.pausing.broker_gone_at]
        if self.phase is not Phase.PAUSED:
            times += [self.timer.deadline, self.leases.next_expiry, self.evaluation.closes_at]
        return min((time for time in times if time is not None), default=None)

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
        self.phase, self._restored_at, self.evaluation.waits_for_all = phase, now, True
        if phase is Phase.WAITING:
            self.invitations.begin_to_ask(self.round_id + 1, now)
        if phase in (Phase.REPORTING, Phase.AGGREGATING):
            left_s = left_s if phase is Phase.REPORTING else math.inf
            self.timer.go_on(now, left_s, n_extensions, self.leases.classes)

    def start(self, now: float) -> list[Command]:
        """Return the first commands of a run, new or restored."""
        commands: list[Command] = [cmd.PublishRound()]
        if self.phase is Phase.FINISHED:
            return [*commands, cmd.Finish(cause=self.stopping.cause or "rounds")]
        if self._restored_at is not None:  # nobody could report before there was a link
            self._move_timers(now - self._restored_at)
        if self.phase is Phase.AGGREGATING and self.tally.is_closed:
            commands.append(cmd.Aggregate(into=self.version + 1, round_id=self.round_id))
        return commands + (self._finish_if_due(now) or self._advance(now))

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take one event and return what to do about it, in order.

        Raises:
            InvalidState: only our own bug can cause it.
        """
        if self.phase is Phase.FINISHED:
            return self.invitations.answer(event, now)
        if self.phase is Phase.PAUSED and isinstance(event, ev.Verified | ev.Refused):
            self.pausing.hold_back(event)
            return []
        commands = self._handle(event, now)
        if self.evaluation.is_complete:
            commands += self.reports.end_evaluation()
        commands += self._finish_if_due(now) or self._advance(now)
        if (contradiction := self.tally.contradiction()) is not None and not self.is_finished:
            commands += self._pause(PauseCause.ERROR, contradiction, now)
        return commands

    def _handle(self, event: ev.Event, now: float) -> list[Command]:
        match event:
            case ev.CheckedIn():
                return self._checked_in(event, now)
            case ev.DeviceOffline():
                self.invitations.offline(event)
                return []
            case ev.Progressed():
                self.reports.progressed(event, self._running(now))
                return []
            case ev.Offered() | ev.Refused() | ev.Failed() | ev.Evaluated() | ev.ModelGone():
                return self.reports.handle(event, is_paused=self.phase is Phase.PAUSED)
            case ev.Verified():
                return self.reports.verified(event, self.round_id, now)
            case ev.VersionWritten():
                return self._version_written(event)
            case ev.Published(version=version):
                return self._published(version, now)
            case ev.AggregationFailed(detail=detail):
                self.pausing.has_failed = self.tally.is_closed
                return self._pause(PauseCause.DISK if event.is_disk_full else PauseCause.ERROR, detail, now)
            case ev.BrokerLost():
                self.pausing.broker_lost(now)
                return []
            case ev.BrokerFound():
                self.pausing.broker_found()
                return [*self._unpause(now, PauseCause.BROKER), cmd.PublishRound()]
            case ev.DiskSeen(for_updates=for_updates):
                self.disk.for_updates = for_updates
                return []
            case ev.DiskLow():
                return self._pause(PauseCause.DISK, "the disk is full", now)
            case ev.DiskFree():
                return self._unpause(now, PauseCause.DISK)
            case ev.PauseAsked():
                return self._pause(PauseCause.OPERATOR, "by the operator", now)
            case ev.ResumeAsked(void=void):
                return self._resume(now, void=void) if self.pausing.objection(event, self.phase) is None else []
            case ev.StopAsked():
                return self._finish("operator")
            case ev.DeadlinePassed():
                return self._deadline_passed(now)
        assert_never(event)

    # moving between phases

    def _enter(self, phase: Phase) -> None:
        if phase not in PHASES[self.phase]:
            raise InvalidState(f"the engine cannot go from {self.phase} to {phase}")
        self.phase = phase

    def _advance(self, now: float) -> list[Command]:
        """Leave the phase when its condition holds, and hand out what can be handed out."""
        commands: list[Command] = []
        is_enough, quorum = self.tally.n_accepted >= self.settings.round.report_goal, self.settings.round.quorum_count
        if self.phase is Phase.WAITING and self.stopping.cause is None:
            if not is_enough and (now < self.timer.begins_at or self.n_at_hand(now) < quorum):
                return []
            commands += self._begin_round(now)
        if self.phase is Phase.REPORTING:
            commands += [] if is_enough else self._invite(now)
            is_met = self.tally.n_accepted >= quorum and PauseCause.ERROR not in self.pausing.causes
            if is_enough or (is_met and not self.leases.n_outstanding(Kind.TRAIN)):
                commands += self._close(EndCause.GOAL if is_enough else EndCause.NOBODY_LEFT)
        if self.phase is Phase.AGGREGATING and self._works_ahead:
            commands += self._invite(now)
        return commands

    @property
    def _works_ahead(self) -> bool:
        """Whether work is given out while a version is made: it counts for the one after, if there will be one."""
        knobs, last = self.settings.round, self.settings.stop.rounds
        is_wanted = last is None or self.tally.building <= last
        # once it is written, work begins with the new version, as soon as that is on the broker
        return knobs.outstanding is not None and knobs.max_staleness > 0 and self.tally.is_closed and is_wanted

    def _begin_round(self, now: float) -> list[Command]:
        self._enter(Phase.REPORTING)
        self.round_id += 1
        self.timer.begin(now)
        self.timer.asked(self.leases.classes)
        self.invitations.begin_to_ask(self.round_id, now)
        self.invitations.round_began(now)
        return [
            Journal(record=rec.RoundRecord(round_id=self.round_id, into=self.version + 1), then=(cmd.PublishRound(),))
        ]

    def _invite(self, now: float) -> list[Command]:
        """Keep as many leases out as there should be."""
        wanted = self.settings.round.n_leases(self.tally.n_accepted)
        wanted = self.disk.n_leases(max(0, wanted - self.leases.n_outstanding(Kind.TRAIN)))
        if not wanted:
            return []
        try:
            invited = self.invitations.invite(wanted, self.round_id, self.timer, now)
        except ConfigError as error:  # a rule of the user's own; another in its place would be another experiment
            return self._pause(PauseCause.ERROR, str(error), now)
        if self.phase is Phase.REPORTING:
            self.timer.asked(self.leases.classes)
        return [*invited]

    def _close(self, cause: EndCause) -> list[Command]:
        self._enter(Phase.AGGREGATING)
        self.timer.close()
        into = self.version + 1
        aggregate = cmd.Aggregate(into=into, round_id=self.round_id)
        record = rec.CloseRecord(into=into, last_seq=self.tally.close(cause), cause=cause)
        return [Journal(record=record, then=(aggregate,))]

    def _version_written(self, event: ev.VersionWritten) -> list[Command]:
        """The next version is on disk: once its row is durable too, it is the truth."""
        self.tally.commit(event.version)
        self.timer.turn()
        record = rec.CommitRecord(
            version=self.version, round_id=self.round_id, digest=event.digest, metrics=event.metrics
        )
        self.stopping.committed(self.version, dict(event.metrics))
        return [Journal(record=record, then=(cmd.PublishModel(version=self.version),))]

    def _published(self, version: int, now: float) -> list[Command]:
        """The version is on the broker: the round is over."""
        where = self.pausing.resume_to if self.phase is Phase.PAUSED else self.phase
        if where is not Phase.AGGREGATING or version != self.version or self.tally.is_closed:
            return []  # published again, after a reconnect or a restart
        if self.phase is Phase.PAUSED:
            self.pausing.resume_to = Phase.WAITING
        else:
            self._enter(Phase.WAITING)
        self.last_outcome = RoundOutcome.COMMITTED
        self.invitations.begin_to_ask(self.round_id + 1, now)  # whoever failed in this round may try the next
        if self.stopping.cause is not None:
            return [self._endings.ended(RoundOutcome.COMMITTED, self.round_id, now)]
        commands = self.reports.cancel_surplus()
        commands += [self._endings.ended(RoundOutcome.COMMITTED, self.round_id, now), cmd.PublishRound()]
        if self.phase is Phase.PAUSED:  # nothing is given out: this version is not evaluated on devices
            return commands
        return commands + self.evaluation.begin(self.version, self.round_id, now)

    def _abandon(self, now: float) -> list[Command]:
        self._enter(Phase.WAITING)
        self.last_outcome = RoundOutcome.ABANDONED
        self.invitations.begin_to_ask(self.round_id + 1, now)
        return self._endings.abandoned(self.round_id, now)

    def _finish_if_due(self, now: float) -> list[Command]:
        """The run ends between rounds, never in the middle of making a version, and after its last evaluation."""
        if self.stopping.cause is None or self.phase not in (Phase.WAITING, Phase.REPORTING):
            return []
        last = self._endings.last_evaluation(self.round_id, now) if self.phase is Phase.WAITING else None
        return self._finish(self.stopping.cause) if last is None else last

    def _finish(self, cause: str) -> list[Command]:
        self._enter(Phase.FINISHED)
        self.pausing.clear(frozenset(PauseCause))
        return self._endings.finished(cause)

    def _deadline_passed(self, now: float) -> list[Command]:
        gone_at = self.pausing.broker_gone_at
        if gone_at is not None and now >= gone_at:
            return self._pause(PauseCause.BROKER, "the broker is gone", now)
        if self.phase is Phase.PAUSED:
            return []
        if now >= self.timer.begins_at:  # backed off long enough: from here on a device's word wakes us, no clock
            self.timer.begins_at = -math.inf
        for lease in self.leases.expire(now):
            self.evaluation.settled(lease.record.lease)
        is_over = self.evaluation.closes_at is not None and now >= self.evaluation.closes_at
        commands = self.reports.end_evaluation() if is_over else []
        if self.phase is Phase.REPORTING and now >= self.timer.closes_at:
            if self.tally.n_accepted >= self.settings.round.quorum_count:
                cause = EndCause.EXTENSION if self.timer.n_extensions else EndCause.DEADLINE
                return commands + self._close(cause)
            return commands + (self._endings.extended(self.round_id, now) or self._abandon(now))
        return commands

    # pausing

    def _pause(self, cause: PauseCause, detail: str, now: float) -> list[Command]:
        self.pausing.causes[cause] = detail
        if self.phase is Phase.PAUSED:
            return []
        self.pausing.begin(self.phase, now)
        self._enter(Phase.PAUSED)
        return [cmd.PublishRound()]

    def _unpause(self, now: float, *causes: PauseCause) -> list[Command]:
        if not self.pausing.clear(frozenset(causes)) or self.phase is not Phase.PAUSED:
            return []
        resume_to = self.pausing.resume_to
        self._move_timers(now - self.pausing.since)
        self._enter(resume_to)
        commands: list[Command] = [cmd.PublishRound()]
        if self.pausing.has_failed:
            self.pausing.has_failed = False
            commands.append(cmd.Aggregate(into=self.version + 1, round_id=self.round_id))
        for event in self.pausing.released():
            commands += self._handle(event, now)
        return commands

    def _running(self, now: float) -> float:
        """Return what the clock of leases and windows shows: it stands still in a pause."""
        return self.pausing.since if self.phase is Phase.PAUSED else now

    def _move_timers(self, seconds: float) -> None:
        for each in (self.timer, self.leases, self.evaluation):
            each.moved(seconds)

    def _resume(self, now: float, *, void: bool) -> list[Command]:
        """Go on, by the operator; `void` throws away what was accepted for the version being built."""
        commands: list[Command] = []
        if void:
            is_under_way = self.pausing.resume_to is not Phase.WAITING
            self.pausing.has_failed, self.pausing.resume_to = False, Phase.WAITING
            if is_under_way:
                self.last_outcome = RoundOutcome.ABANDONED
            commands = self._endings.voided(self.round_id, self.pausing.since, is_under_way=is_under_way)
            self.invitations.begin_to_ask(self.round_id + 1, now)
        return commands + self._unpause(now, PauseCause.OPERATOR, PauseCause.ERROR)

    # devices and their reports

    def _checked_in(self, event: ev.CheckedIn, now: float) -> list[Command]:
        commands, is_waiting = self.invitations.checked_in(event, now)
        if not is_waiting:
            return commands
        commands += self.reports.supersede(event.device)  # expired, and it does not have it any more
        if self.phase is Phase.PAUSED:
            return [*commands, self.invitations.come_back(event.device, Reason.PAUSED, now)]
        commands += self._finish_if_due(now) or self._advance(now)
        if self.leases.live_of(event.device) is None:
            commands.append(self.invitations.come_back(event.device, Reason.NOT_DRAWN, now))
        return commands

    def federated_metrics(self, version: int, metrics: dict[str, float]) -> None:
        """Take the combined metrics of an `EvaluationDone`; they stop the run when there is no central evaluation."""
        if self.settings.evaluation.central_every == 0:
            self.stopping.evaluated(version, metrics)
