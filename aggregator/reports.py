"""What becomes of a report: accepted, discarded, rejected, failed, cancelled; decided once, journalled, then told.

Not here: whether its bytes are believed (`admission.py`, `intake.py`), what the decision does to the round
(`round_machine.py`).
"""

from typing import TypeAlias, assert_never

from aggregator.commands import Cancel, Command, DropUpload, Fold, Journal, SendReceipt, TakeUpload
from aggregator.events import Evaluated, Failed, ModelGone, Offered, Progressed, Refused, Verified
from aggregator.federated_evaluation import FederatedEvaluation
from aggregator.invitations import receipt_of
from aggregator.leases import Lease, LeaseBook, LeaseState
from aggregator.population import Population
from aggregator.records import OutcomeRecord
from aggregator.round_clock import RoundTimer
from aggregator.tally import Tally
from shared.errors import Reason
from shared.messages import Kind, Outcome

__all__ = ["Reports"]

PAST_FETCHING = ("training", "reporting", "uploading")
"""What a device says that it does when it has the model."""
UPLOADING = ("reporting", "uploading", "")
"""What it says when its update is on its way up; "": a chunk of it arrived."""
_TOO_LATE = frozenset({Reason.COMMITTED, Reason.GOAL_MET, Reason.TOO_STALE})

_About: TypeAlias = Offered | Refused | Failed | Evaluated | ModelGone


class Reports:
    """Decides over the engine's own books."""

    def __init__(
        self,
        leases: LeaseBook,
        tally: Tally,
        population: Population,
        evaluation: FederatedEvaluation,
        timer: RoundTimer,
    ) -> None:
        self._leases, self._tally, self._population, self.evaluation = leases, tally, population, evaluation
        self._timer = timer

    def handle(self, event: _About, *, is_paused: bool) -> list[Command]:
        """Take what says something about a lease; a verdict on an update goes to `verified`."""
        match event:
            case Offered(lease=name):
                return self.offered(self._leases[name], is_paused=is_paused)
            case Refused(lease=name, reason=reason, detail=detail):
                return self.conclude(self._leases[name], LeaseState.REJECTED, reason, detail)
            case Failed(lease=name, reason=reason, detail=detail):
                return self.conclude(self._leases[name], LeaseState.FAILED, reason, detail)
            case Evaluated():
                return self.evaluated(event)
            case ModelGone(version=version):
                return self.model_gone(version)
        assert_never(event)

    def progressed(self, event: Progressed, now: float) -> None:
        """A lease lives on from here; one that has expired stays so, for its place may be taken.

        Args:
            event: whose.
            now: seconds, on the clock of the leases.
        """
        lease = self._leases.get(event.lease)
        if lease is not None and lease.record.device == event.device:
            lease.has_model |= event.phase in PAST_FETCHING
            lease.is_uploading |= event.phase in UPLOADING
            lease.expires_at = max(lease.expires_at, now + self._timer.lease_s(lease.record.device_class))

    def offered(self, lease: Lease, *, is_paused: bool) -> list[Command]:
        """A device has an update: what need not be uploaded is answered at once."""
        if lease.state.is_final:
            return [receipt_of(lease, repeat=True)]
        lease.has_model = True
        name, device = lease.record.lease, lease.record.device
        if is_paused:
            return [SendReceipt(lease=name, device=device, outcome=Outcome.BUSY, reason=Reason.PAUSED)]
        if (reason := self._tally.surplus(lease)) is not None:
            lease.is_uploading = False  # the goal was met before it began to send
            return self.conclude(lease, LeaseState.DISCARDED, reason)
        lease.is_uploading = True
        return [TakeUpload(lease=name)]

    def verified(self, update: Verified, round_id: int, now: float) -> list[Command]:
        """An update is whole and sound: the lease is checked again, and it counts or it does not."""
        lease = self._leases[update.lease]
        if lease.state.is_final:
            return [receipt_of(lease, repeat=True)]
        if (reason := self._tally.surplus(lease)) is not None:
            return self.conclude(lease, LeaseState.DISCARDED, reason)
        record = self._tally.accept(lease, update, round_id, now)
        if self._tally.has_counted(lease.record.device):
            self._population.sits_out(lease.record.device)
        self._timer.reported(lease.record.device_class, record.seconds)
        return [Journal(record=record, then=(Fold(record=record), receipt_of(lease)))]

    def evaluated(self, report: Evaluated) -> list[Command]:
        """A device's metrics came."""
        lease = self._leases[report.lease]
        if lease.state.is_final:
            return [receipt_of(lease, repeat=True)]
        self._leases.move(lease, LeaseState.ACCEPTED)
        self.evaluation.report(report)
        record = OutcomeRecord(
            lease=report.lease, outcome=Outcome.ACCEPTED, num_examples=report.num_examples, metrics=report.metrics
        )
        return [Journal(record=record, then=(receipt_of(lease),))]

    def conclude(self, lease: Lease, state: LeaseState, reason: Reason, detail: str = "") -> list[Command]:
        """Give a lease a final outcome other than accepted. A final one is only told again."""
        if lease.state.is_final:
            return [receipt_of(lease, repeat=True)]
        name, device = lease.record.lease, lease.record.device
        is_lost = self._is_lost(lease, state, reason)
        was_uploading = lease.record.kind is Kind.TRAIN and lease.is_uploading and reason in _TOO_LATE
        if reason is Reason.STATE:
            self._tally.states.lost(device, lease.record.work)
        self._leases.move(lease, state, reason=reason, detail=detail)
        if lease.record.kind is Kind.TRAIN:
            self._tally.records.settled(device, lease.outcome, was_uploading=was_uploading)
        self.evaluation.settled(name)
        if state in (LeaseState.FAILED, LeaseState.REJECTED):
            self._population.bar(device, lease.record.round_id)
        is_cancelled = state is LeaseState.CANCELLED
        told = Cancel(lease=name, device=device, reason=reason) if is_cancelled else receipt_of(lease)
        record = OutcomeRecord(
            lease=name,
            outcome=lease.outcome,
            reason=reason,
            detail=detail,
            was_uploading=was_uploading,
            is_lost=is_lost,
        )
        return [Journal(record=record, then=(told, DropUpload(lease=name)))]

    def _is_lost(self, lease: Lease, state: LeaseState, reason: Reason) -> bool:
        """Return whether an outcome that answers no report is of a device that nobody had heard of for too long."""
        if state is not LeaseState.CANCELLED and reason is not Reason.RUN_FINISHED:
            return False
        if reason is Reason.SUPERSEDED or lease.state is LeaseState.EXPIRED:
            return True
        member = self._population.get(lease.record.device)
        return member is None or not member.is_online

    def cancel_surplus(self) -> list[Command]:
        """A version was committed: work that would lag too far behind it is not waited for, in any mode."""
        commands: list[Command] = []
        for lease in self._leases.open(Kind.TRAIN):
            if self._tally.surplus(lease) is not None:
                commands += self.conclude(lease, LeaseState.CANCELLED, Reason.COMMITTED)
        return commands

    def supersede(self, device: str) -> list[Command]:
        """A device says that it has none of its open leases: they will bring nothing."""
        commands: list[Command] = []
        for lease in self._leases.open_of(device):
            commands += self.conclude(lease, LeaseState.CANCELLED, Reason.SUPERSEDED)
        return commands

    def model_gone(self, version: int) -> list[Command]:
        """A version left the broker: whoever has not fetched it cannot begin with it any more."""
        commands: list[Command] = []
        for lease in self._leases.open():
            if lease.record.base_version == version and not lease.has_model:
                commands += self.conclude(lease, LeaseState.CANCELLED, Reason.MODEL_GONE)
        return commands

    def end_evaluation(self) -> list[Command]:
        """Close the books of an evaluation; who has not reported by now need not."""
        commands = self.evaluation.end()
        for lease in self._leases.open(Kind.EVALUATE):
            commands += self.conclude(lease, LeaseState.CANCELLED, Reason.TOO_STALE)
        return commands
