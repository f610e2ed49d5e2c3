"""A restart: the journal's rows are read back into the round machine, which goes on where they end.

The same rows give the same books, whatever the machine was doing when it died. Timers go on with what was left of
them; leases that were out stay good for a whole lease more, for nobody could report meanwhile.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from aggregator.commands import EvaluationDone
from aggregator.evaluation import federated_metrics
from aggregator.events import Evaluated
from aggregator.leases import Lease, LeaseState
from aggregator.phases import Phase
from aggregator.records import (
    AbandonRecord,
    AcceptRecord,
    CloseRecord,
    CommitRecord,
    ConfigRecord,
    EpochRecord,
    FinishRecord,
    LeaseRecord,
    OutcomeRecord,
    Record,
    RoundClock,
    RoundRecord,
    VoidRecord,
)
from aggregator.round_machine import RoundMachine
from shared.config import settings_json
from shared.errors import Reason
from shared.messages import Kind, Outcome, RoundOutcome

__all__ = ["Recovered", "recover"]


@dataclass(slots=True)
class Recovered:
    """What the journal says beside the machine's own books.

    Args:
        epoch: the highest so far, 0 before the first.
        instances: every start of this run; a status of one of them is nobody else's.
        config: the newest configuration, None before the first.
        participants: devices whose update is in the last of them.
        n_records: rows read.
    """

    epoch: int = 0
    instances: set[str] = field(default_factory=set)
    config: ConfigRecord | None = None
    participants: tuple[str, ...] = ()
    n_records: int = 0


def recover(
    machine: RoundMachine, records: Iterable[Record], clock: RoundClock | None, now: float, wall_s: float
) -> Recovered:
    """Read the journal back into a new machine; call its `start` next.

    Args:
        machine: nothing has happened to it yet.
        records: in the order in which they were journalled.
        clock: where the timers stood, None when never stored.
        now: seconds, the clock of the machine.
        wall_s: Unix time.

    Raises:
        InvalidState: the rows contradict each other.
    """
    found = Recovered()
    machine.invitations.wall_zero_s = wall_s - now
    phase = Phase.WAITING
    finished: str | None = None
    for record in records:
        found.n_records += 1
        match record:
            case EpochRecord():
                found.epoch = max(found.epoch, record.epoch)
                found.instances.add(record.instance)
            case ConfigRecord():
                if finished is not None and found.config is not None and _stop_of(found.config) != _stop_of(record):
                    finished = None  # it had ended, and was told to go on for longer
                found.config = record
            case RoundRecord():
                machine.round_id, phase, finished = record.round_id, Phase.REPORTING, None
                machine.invitations.begin_to_ask(record.round_id, now)
                machine.invitations.forget_settled()
            case LeaseRecord():
                _issue(machine, record, now)
                if record.kind is Kind.EVALUATE and not machine.tally.is_closed and phase is Phase.AGGREGATING:
                    phase = Phase.WAITING  # nobody is asked to evaluate a version before it is published
            case AcceptRecord():
                machine.timer.reported(machine.leases[record.lease].record.device_class, record.seconds)
                machine.tally.enter(record)
            case OutcomeRecord():
                if record.reason is Reason.STATE:
                    lost = machine.leases[record.lease].record
                    machine.tally.states.lost(lost.device, lost.work)
                machine.leases.move(
                    machine.leases[record.lease],
                    LeaseState(record.outcome),
                    reason=record.reason,
                    detail=record.detail,
                )
                _settled(machine, machine.leases[record.lease], record)
            case CloseRecord():
                machine.tally.close(record.cause)
                phase = Phase.AGGREGATING
            case CommitRecord():
                counted = (update.device for update in machine.tally.accepted() if update.into == record.version)
                found.participants = tuple(sorted(counted))
                machine.tally.commit(record.version)
                machine.timer.turn()
                # published or not, nobody knows: it is published again, and the round ends with that
                machine.last_outcome, phase = RoundOutcome.COMMITTED, Phase.AGGREGATING
                machine.stopping.committed(record.version, dict(record.metrics))
            case AbandonRecord():
                machine.timer.turn()
                machine.last_outcome, phase = RoundOutcome.ABANDONED, Phase.WAITING
            case VoidRecord(lease=str(name)):
                was_closed = machine.tally.is_closed
                machine.tally.void_one(name)
                if was_closed and not machine.tally.is_closed:
                    machine.last_outcome, phase = RoundOutcome.ABANDONED, Phase.WAITING
            case VoidRecord():
                machine.tally.void()
                machine.last_outcome, phase = RoundOutcome.ABANDONED, Phase.WAITING
            case FinishRecord():
                finished = record.cause
    # stopped by hand, or told to go on for longer since: then it goes on
    if finished is not None and (machine.stopping.cause is not None or _is_for_good(finished, machine, found.config)):
        machine.stopping.cause = machine.stopping.cause or finished
        phase = Phase.FINISHED
    left_s, n_extensions = machine.timer.widest_s(machine.leases.classes), 0
    if clock is not None and clock.round_id == machine.round_id:
        left_s = min(clock.left_s, max(0.0, clock.left_s - (wall_s - clock.wall_s)))
        n_extensions = clock.n_extensions
    machine.restored(phase=phase, left_s=left_s, n_extensions=n_extensions, now=now)
    return found


def _is_for_good(cause: str, machine: RoundMachine, config: ConfigRecord | None) -> bool:
    """Return whether an end holds that these settings do not repeat: they may count other metrics than those then."""
    if cause == "operator" or config is None:
        return False
    return bool(_stop_of(config) == json.loads(settings_json(machine.settings))["stop"])


def _stop_of(config: ConfigRecord) -> object:
    return json.loads(config.settings).get("stop")


def _issue(machine: RoundMachine, record: LeaseRecord, now: float) -> None:
    live = machine.leases.live_of(record.device)
    if live is not None:  # it had expired: expiry is not journalled, for it decides nothing that lasts
        machine.leases.move(live, LeaseState.EXPIRED)
    seconds = (
        machine.timer.lease_s(record.device_class)
        if record.kind is Kind.TRAIN
        else machine.settings.evaluation.window_s
    )
    machine.leases.issue(record, now=now, expires_at=now + seconds)
    machine.tally.records.asked(record)
    machine.invitations.quotas.asked(record)
    machine.invitations.recent[record.device] = record.lease
    if record.kind is Kind.EVALUATE:
        machine.evaluation.asked(record, now)


def _settled(machine: RoundMachine, lease: Lease, record: OutcomeRecord) -> None:
    """What an outcome says beyond its lease: who is not asked again in this round, what devices found of a version."""
    device = lease.record.device
    if record.outcome in (Outcome.FAILED, Outcome.REJECTED):
        machine.population.bar(device, lease.record.round_id)
    if lease.record.kind is not Kind.EVALUATE:
        machine.tally.records.settled(device, record.outcome, was_uploading=record.was_uploading)
        return
    if record.outcome is Outcome.ACCEPTED:
        found = Evaluated(device=device, lease=record.lease, num_examples=record.num_examples, metrics=record.metrics)
        machine.evaluation.report(found)
    machine.evaluation.settled(record.lease)
    if machine.evaluation.is_complete:
        for done in machine.evaluation.end():
            if isinstance(done, EvaluationDone):
                summaries = federated_metrics(done.reports)
                machine.federated_metrics(done.version, {name: each.value for name, each in summaries.items()})
