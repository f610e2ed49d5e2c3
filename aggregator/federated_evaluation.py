"""One evaluation of a committed version on the devices' own data: who was asked, what came, when it is over.

Outside goal and phases: training goes on meanwhile. Not here: how metrics combine (`evaluation.py`).
"""

from aggregator.commands import Command, EvaluationDone
from aggregator.config import EvaluationSettings
from aggregator.events import Evaluated
from aggregator.invitations import Invitations
from aggregator.records import LeaseRecord

__all__ = ["FederatedEvaluation"]


class FederatedEvaluation:
    """At most one evaluation at a time."""

    def __init__(self, settings: EvaluationSettings, invitations: Invitations) -> None:
        self._settings, self._invitations = settings, invitations
        self._version = -1
        self._asked: set[str] = set()
        self._pending: set[str] = set()
        self._reports: dict[str, Evaluated] = {}
        self.closes_at: float | None = None

    def begin(self, version: int, round_id: int, now: float) -> list[Command]:
        """Ask idle devices to evaluate a new version, where that is due; the window runs from now."""
        every, window_s = self._settings.federated_every, self._settings.window_s
        if self.closes_at is not None or not every or version % every:
            return []
        asked = self._invitations.ask_to_evaluate(self._settings.devices, round_id, window_s, now)
        for command in asked:
            if isinstance(command.record, LeaseRecord):
                self.asked(command.record, now)
        return list(asked)

    def asked(self, lease: LeaseRecord, now: float) -> None:
        """Expect a device's metrics under this lease, just given or read back; the first of a version opens its books.

        After a restart the window begins anew, for nobody could report meanwhile.
        """
        if self.closes_at is None:
            self._version, self._asked, self._reports = lease.base_version, set(), {}
            self.closes_at = now + self._settings.window_s
        self._asked.add(lease.lease)
        self._pending.add(lease.lease)

    def report(self, report: Evaluated) -> None:
        """Take one device's metrics; they count as long as the evaluation is under way."""
        if self.closes_at is not None and report.lease in self._asked:
            self._reports[report.device] = report
            self._pending.discard(report.lease)

    def settled(self, lease: str) -> None:
        """This lease will bring nothing more."""
        self._pending.discard(lease)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will come."""
        return self.closes_at is not None and not self._pending

    def moved(self, seconds: float) -> None:
        """The engine was paused for that long."""
        if self.closes_at is not None:
            self.closes_at += seconds

    def end(self) -> list[Command]:
        """Close the books, if an evaluation is under way."""
        if self.closes_at is None:
            return []
        self.closes_at = None
        self._pending.clear()
        reports = tuple(
            (device, report.num_examples, report.metrics) for device, report in sorted(self._reports.items())
        )
        return [EvaluationDone(version=self._version, n_asked=len(self._asked), reports=reports)]
