"""A restart: the journal's rows are read back into the round machine, which goes on where they end.

The same rows give the same books, whatever the machine was doing when it died. Timers go on with what was left of
them; leases that were out stay good for a whole lease more, for nobody could report meanwhile.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from aggregator.leases import LeaseState
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
from shared.messages import Kind, Outcome, RoundOutcome

__all__ = ["Recovered", "recover"]


@dataclass(slots=True)
class Recovered:
    """What the journal says beside the machine's own books.

    Args:
        epoch: the highest so far, 0 before the first.
        instances: every start of this run; a status of one of them is nobody else's.
        config: the newest configuration, None before the first.
        digests: of each committed version.
        n_records: rows read.
    """

    epoch: int = 0
    instances: set[str] = field(default_factory=set)
    config: ConfigRecord | None = None
    digests: dict[int, str] = field(default_factory=dict)
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
                machine.invitations.forget_settled()
            case LeaseRecord():
                _issue(machine, record, now)
            case AcceptRecord():
                machine.tally.enter(record)
            case OutcomeRecord():
                machine.leases.move(
                    machine.leases[record.lease],
                    LeaseState(record.outcome),
                    reason=record.reason,
                    detail=record.detail,
                )
                if record.outcome in (Outcome.FAILED, Outcome.REJECTED):
                    lease = machine.leases[record.lease].record
                    machine.population.bar(lease.device, lease.round_id)
            case CloseRecord():
                machine.tally.close()
                phase = Phase.AGGREGATING
            case CommitRecord():
                machine.tally.commit(record.version)
                machine.last_outcome, phase = RoundOutcome.COMMITTED, Phase.WAITING
                found.digests[record.version] = record.digest
                machine.stopping.committed(record.version, dict(record.metrics))
            case AbandonRecord():
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
    left_s, n_extensions = machine.timer.window_s, 0
    if clock is not None and clock.round_id == machine.round_id:
        left_s = min(clock.left_s, max(0.0, clock.left_s - (wall_s - clock.wall_s)))
        n_extensions = clock.n_extensions
    machine.restored(phase=phase, left_s=left_s, n_extensions=n_extensions, now=now)
    return found


def _is_for_good(cause: str, machine: RoundMachine, config: ConfigRecord | None) -> bool:
    """Return whether an end holds that the journal alone does not repeat: metrics of devices are not in it."""
    if cause == "operator" or config is None:
        return False
    return bool(_stop_of(config) == json.loads(settings_json(machine.settings))["stop"])


def _stop_of(config: ConfigRecord) -> object:
    return json.loads(config.settings).get("stop")


def _issue(machine: RoundMachine, record: LeaseRecord, now: float) -> None:
    live = machine.leases.live_of(record.device)
    if live is not None:  # it had expired: expiry is not journalled, for it decides nothing that lasts
        machine.leases.move(live, LeaseState.EXPIRED)
    seconds = machine.timer.lease_s if record.kind is Kind.TRAIN else machine.settings.evaluation.window_s
    machine.leases.issue(record, now=now, expires_at=now + seconds)
    machine.invitations.recent[record.device] = record.lease
