"""One evaluation of a committed version on the devices' own data: who was asked, what came, when it is over.

Outside goal and phases: training goes on meanwhile. Where the settings say so, the last version is evaluated before the
run ends: then nobody trains any more, and whoever comes within the window is asked, too.

Not here: how metrics combine (`evaluation.py`).
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
        self._devices: set[str] = set()
        self._reports: dict[str, Evaluated] = {}
        self.closes_at: float | None = None
        self._is_last = False
        self.is_last_due = settings.at_end
        """Whether the version with which the run ends is still to be evaluated."""
        self.waits_for_all = False
        """Whether the last one takes its whole window: after a restart nobody knows who is still to come."""

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

    def go_on_with_last(self, version: int, round_id: int, now: float) -> list[Command]:
        """Ask whoever is idle, and was not asked yet, to evaluate the last version; its window begins with that."""
        if self.closes_at is None or self._version != version:
            self._open(version, now)
        self._is_last = True
        asked = self._invitations.ask_to_evaluate(
            self._settings.devices - len(self._devices), round_id, self._settings.window_s, now, but=self._devices
        )
        for command in asked:
            if isinstance(command.record, LeaseRecord):
                self.asked(command.record, now)
        return list(asked)

    def is_under_way(self, version: int) -> bool:
        """Return whether this version is being evaluated."""
        return self.closes_at is not None and self._version == version

    def asked(self, lease: LeaseRecord, now: float) -> None:
        """Expect a device's metrics under this lease, just given or read back; the first of a version opens its books.

        After a restart the window begins anew, for nobody could report meanwhile.
        """
        if self.closes_at is None:
            self._open(lease.base_version, now)
        self._asked.add(lease.lease)
        self._devices.add(lease.device)
        self._pending.add(lease.lease)

    def _open(self, version: int, now: float) -> None:
        self._version, self._asked, self._devices, self._reports = version, set(), set(), {}
        self.closes_at = now + self._settings.window_s

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
        if self.closes_at is None or self._pending:
            return False
        return not self._is_last or not (self.waits_for_all or self._somebody_may_come())

    def _somebody_may_come(self) -> bool:
        n_left = self._settings.devices - len(self._devices)
        return not self._devices or (n_left > 0 and self._invitations.is_anybody_there(but=self._devices))

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
        self.is_last_due &= not self._is_last
        reports = tuple(
            (device, report.num_examples, report.metrics) for device, report in sorted(self._reports.items())
        )
        return [EvaluationDone(version=self._version, n_asked=len(self._asked), reports=reports)]
