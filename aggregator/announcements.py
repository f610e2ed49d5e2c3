"""The aggregator's own messages, made from what the round machine knows. Pure: nothing is sent here."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from aggregator.commands import Assign, Cancel, ComeBack, SendReceipt
from aggregator.config import Settings
from aggregator.leases import LeaseState
from aggregator.loop_lag import LoopLag
from aggregator.phases import Phase
from aggregator.round_machine import RoundMachine
from aggregator.selection import seed_of
from aggregator.uploads import Grant
from broker.transport import Will
from shared.algorithms import STATEFUL
from shared.codecs import CODECS
from shared.errors import Reason
from shared.messages import (
    Action,
    AggregatorStatus,
    Assignment,
    Control,
    Fleet,
    ModelRef,
    Outcome,
    Receipt,
    Round,
    RoundState,
    WireMessage,
    WorkOrder,
)
from shared.topics import (
    AggregatorStatusTopic,
    AssignmentTopic,
    ControlTopic,
    FleetTopic,
    ReceiptTopic,
    RoundTopic,
    Topics,
)
from shared.wire import encode, encode_json

__all__ = ["BEAT_S", "Announcements"]

BEAT_S = 5.0
"""However little happens, the status changes that often: it tells the living from the dead whose status is retained."""
SHOWN_REFUSALS = 2
"""Reasons, of those why devices do not take part, that the status has room for."""


class Announcements:
    """Words for everybody and for one device.

    Args:
        settings: of the run.
        run: its name.
        machine: read only.
        instance: random name of this process.
        lag: of the event loop, read only; None: nobody measures it.
    """

    def __init__(
        self, settings: Settings, *, run: str, machine: RoundMachine, instance: str, lag: LoopLag | None = None
    ) -> None:
        self._settings, self._run, self._machine, self._lag = settings, run, machine, lag
        self._needs_state = settings.training.algorithm in STATEFUL
        self.instance = instance
        self.epoch = 0
        """Of this start; set when the fleet is claimed."""
        self.topics = Topics(settings.fleet)

    # for everybody, retained

    def fleet(self) -> tuple[str, bytes]:
        """Return the limits of the fleet, with their topic."""
        transfer = self._settings.transfer
        message = Fleet(
            epoch=self.epoch,
            run=self._run,
            chunk_bytes=transfer.chunk_bytes,
            inline_bytes=transfer.inline_bytes,
            check_in_interval_s=self._machine.invitations.check_in_interval_s,
            reconnect_window_s=transfer.reconnect_window_s,
            codecs=list(CODECS),
        )
        return self.topics.build(FleetTopic()), encode(message)

    def round(self, model: ModelRef) -> tuple[str, bytes]:
        """Return the manifest, with its topic."""
        machine = self._machine
        state = {Phase.FINISHED: RoundState.FINISHED, Phase.PAUSED: RoundState.PAUSED}
        message = Round(
            epoch=self.epoch,
            run=self._run,
            round=machine.round_id,
            outcome=machine.last_outcome,
            state=state.get(machine.phase, RoundState.OPEN),
            model=model,
            report_goal=self._settings.round.report_goal,
        )
        return self.topics.build(RoundTopic(self._run)), encode(message)

    def status(self, now: float) -> AggregatorStatus:
        """Return what `watch` shows."""
        machine = self._machine
        counts = machine.leases.counts()
        waits = machine.phase is Phase.WAITING
        n_barred = machine.invitations.n_barred(now) if waits else 0
        refusals = machine.population.refusals() if waits else Counter[Reason]()
        n_stateless = refusals.pop(Reason.STATE, 0) if self._needs_state else 0  # said in words of its own
        lag = None if self._lag is None else self._lag.over_the_run()
        return AggregatorStatus(
            online=True,
            epoch=self.epoch,
            instance=self.instance,
            run=self._run,
            round=machine.round_id,
            version=machine.version,
            phase=machine.phase,
            causes=[f"{cause}: {detail}"[:256] for cause, detail in machine.pausing.causes.items()]
            or ["waiting_for_devices"] * waits
            + [f"barred_by_quota: {n_barred}"] * bool(n_barred)
            + [f"keep_no_state: {n_stateless}"] * bool(n_stateless)
            + [f"refused_for_{reason}: {n}" for reason, n in refusals.most_common(SHOWN_REFUSALS)]
            + ["no_room_on_disk_for_leases"] * machine.disk.is_spent,
            have=machine.n_at_hand(now) if waits else machine.tally.n_accepted,
            need=self._settings.round.quorum_count,
            goal=self._settings.round.report_goal,
            states={str(state): counts[state] for state in LeaseState},
            population=machine.population.counts(),
            seconds_left=machine.seconds_left(now),
            beat=int(now // BEAT_S),
            metrics={name[:64]: value for name, value in list(machine.stopping.metrics.items())[:32]},
            loop_lag_ms={} if lag is None else asdict(lag),
        )

    def status_topic(self) -> str:
        """Return where the status is published."""
        return self.topics.build(AggregatorStatusTopic())

    def will(self) -> Will:
        """Return what the broker says when this aggregator dies."""
        gone = AggregatorStatus(online=False, epoch=self.epoch, instance=self.instance, run=self._run)
        return Will(self.status_topic(), encode_json(gone))

    # for one device

    def assignment(self, command: Assign, models: Mapping[int, ModelRef]) -> tuple[str, bytes]:
        """Return the Assignment of a lease, with its topic."""
        record = self._machine.leases[command.lease].record
        message = Assignment(
            epoch=self.epoch,
            lease=record.lease,
            run=self._run,
            round=record.round_id,
            kind=record.kind,
            model=models[record.base_version],
            work=WorkOrder.model_validate_json(record.work) if record.work else None,
            codec=record.codec,
            codec_seed=seed_of(self._settings.seed, "codec", record.round_id, record.device),
            max_bytes=record.max_bytes,
            seconds_left=command.seconds_left,
            max_seconds=self._settings.training.max_seconds if record.work else None,
            status_every_s=self._machine.timer.lease_s(record.device_class) / 4,
        )
        return self._to(AssignmentTopic(record.device), message)

    def receipt(self, command: SendReceipt) -> tuple[str, bytes]:
        """Return a receipt, with its topic."""
        message = Receipt(
            epoch=self.epoch,
            lease=command.lease,
            run=self._run,
            outcome=command.outcome,
            reason=command.reason,
            detail=command.detail[:256],
            staleness=command.staleness,
            repeat=command.repeat,
        )
        return self._to(ReceiptTopic(command.device), message)

    def grant(self, device: str, grant: Grant) -> tuple[str, bytes]:
        """Return the receipt that grants chunks, with its topic."""
        message = Receipt(epoch=self.epoch, lease=grant.lease, run=self._run, outcome=Outcome.NEED, need=grant.ranges)
        return self._to(ReceiptTopic(device), message)

    def cancel(self, command: Cancel) -> tuple[str, bytes]:
        """Return the message that cancels a lease, with its topic."""
        message = Control(epoch=self.epoch, action=Action.CANCEL, lease=command.lease, reason=command.reason)
        return self._to(ControlTopic(command.device), message)

    def come_back(self, command: ComeBack) -> tuple[str, bytes]:
        """Return when a device shall check in next, with its topic."""
        message = Control(
            epoch=self.epoch,
            action=Action.COME_BACK,
            reason=command.reason,
            retry_s=command.retry_s,
            detail=command.detail,
        )
        return self._to(ControlTopic(command.device), message)

    def _to(self, topic: AssignmentTopic | ReceiptTopic | ControlTopic, message: WireMessage) -> tuple[str, bytes]:
        return self.topics.build(topic), encode(message)
