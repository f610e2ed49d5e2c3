"""How a round ends: committed, abandoned, voided; and how a run does: the rows that say so, and its one summary.

Not here: when it ends and which phase follows (`round_machine.py`).
"""

from aggregator.commands import (
    Command,
    DropUpload,
    Finish,
    Forget,
    Journal,
    PublishRound,
    RoundEnded,
    WindowExtended,
)
from aggregator.config import RoundSettings
from aggregator.leases import LeaseBook, LeaseState
from aggregator.phases import EndCause
from aggregator.records import AbandonRecord, FinishRecord, VoidRecord
from aggregator.reports import Reports
from aggregator.round_clock import RoundTimer
from aggregator.stopping import Stopping
from aggregator.tally import Tally
from shared.errors import Reason
from shared.messages import Kind, RoundOutcome

__all__ = ["RoundEndings"]


class RoundEndings:
    """Closes the engine's own books."""

    def __init__(
        self,
        settings: RoundSettings,
        leases: LeaseBook,
        tally: Tally,
        timer: RoundTimer,
        stopping: Stopping,
        reports: Reports,
    ) -> None:
        self._settings = settings
        self._leases, self._tally, self._timer, self._stopping, self._reports = leases, tally, timer, stopping, reports

    def ended(self, outcome: RoundOutcome, round_id: int, now: float, *, cause: EndCause | None = None) -> RoundEnded:
        """Close the books of a round; return its summary. `cause` None: why its version was closed."""
        seconds = self._timer.end(now, is_committed=outcome is RoundOutcome.COMMITTED)
        return RoundEnded(
            round_id=round_id,
            version=self._tally.version,
            outcome=outcome,
            seconds=seconds,
            cause=cause or self._tally.closed_by,
            n_extensions=self._timer.n_extensions,
            counts=self._leases.summary(),
            metrics=dict(self._stopping.metrics),
        )

    def extended(self, round_id: int, now: float) -> list[Command]:
        """No quorum yet: let the window grow; [] when it has grown often enough."""
        if not self._timer.extend(now):
            return []
        extended = WindowExtended(
            round_id=round_id,
            have=self._tally.n_accepted,
            need=self._settings.quorum_count,
            n_outstanding=self._leases.n_outstanding(Kind.TRAIN),
            seconds_left=self._timer.closes_at - now,
            times=self._timer.n_extensions,
            at_most=self._settings.extensions,
        )
        return [extended]

    def abandoned(self, round_id: int, now: float) -> list[Command]:
        """No quorum: the round ends without a version, and what it accepted goes on to the next."""
        self._timer.turn()
        summary = self.ended(RoundOutcome.ABANDONED, round_id, now, cause=EndCause.NO_QUORUM)
        return [Journal(record=AbandonRecord(round_id=round_id), then=(PublishRound(),)), summary]

    def voided(self, round_id: int, now: float, *, is_under_way: bool) -> list[Command]:
        """The operator throws away what was accepted for the version being built.

        Args:
            round_id: the last that began.
            now: seconds.
            is_under_way: whether it is abandoned by this; False: it had ended before.
        """
        into = self._tally.version + 1
        dropped = [DropUpload(lease=record.lease) for record in self._tally.accepted() if record.into == into]
        self._tally.void()
        voided = Journal(record=VoidRecord(into=into), then=(Forget(into=into), *dropped))
        if not is_under_way:
            return [voided]
        self._timer.turn()
        summary = self.ended(RoundOutcome.ABANDONED, round_id, now, cause=EndCause.VOIDED)
        return [voided, Journal(record=AbandonRecord(round_id=round_id)), summary]

    def last_evaluation(self, round_id: int, now: float) -> list[Command] | None:
        """The run has learned enough: let devices evaluate what it ends with, all that are there and come in time.

        Returns:
            None: that is over, or was never wanted. To be called again at every event until then.
        """
        if not self._reports.evaluation.is_last_due:
            return None
        commands: list[Command] = []
        if not self._reports.evaluation.is_under_way(self._tally.version):
            commands += self._reports.end_evaluation()
            for lease in self._leases.open(Kind.TRAIN):
                commands += self._reports.conclude(lease, LeaseState.CANCELLED, Reason.COMMITTED)
            commands.append(PublishRound())
        return commands + self._reports.evaluation.go_on_with_last(self._tally.version, round_id, now)

    def finished(self, cause: str) -> list[Command]:
        """The run is over: what is still open will not count."""
        self._timer.close()
        commands: list[Command] = []
        for lease in self._leases.open():
            commands += self._reports.conclude(lease, LeaseState.DISCARDED, Reason.RUN_FINISHED)
        commands += self._reports.end_evaluation()
        return [*commands, Journal(record=FinishRecord(cause=cause), then=(PublishRound(), Finish(cause=cause)))]
