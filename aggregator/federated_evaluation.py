"""One evaluation of a committed version on the devices' own data: who was asked, what came, when it is over.

Outside goal and phases: training goes on meanwhile. Not here: how metrics combine (`evaluation.py`).
"""

from aggregator.config import EvaluationSettings
from aggregator.events import Evaluated, EvaluationDone

__all__ = ["FederatedEvaluation"]


class FederatedEvaluation:
    """At most one evaluation at a time."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self._settings = settings
        self._version = -1
        self._pending: set[str] = set()
        self._n_asked = 0
        self._reports: dict[str, Evaluated] = {}
        self.closes_at: float | None = None

    def is_due(self, version: int) -> bool:
        """Return whether this version is to be evaluated on devices."""
        every = self._settings.federated_every
        return self.closes_at is None and every > 0 and version > 0 and version % every == 0

    def begin(self, version: int, leases: list[str], now: float) -> None:
        """Wait for these leases, until the window is over."""
        self._version, self._pending, self._n_asked, self._reports = version, set(leases), len(leases), {}
        self.closes_at = now + self._settings.window_s

    def report(self, report: Evaluated) -> None:
        """Take one device's metrics."""
        if report.lease in self._pending:
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

    def end(self) -> EvaluationDone | None:
        """Close the books; None when no evaluation is under way."""
        if self.closes_at is None:
            return None
        self.closes_at = None
        self._pending.clear()
        reports = tuple(
            (device, report.num_examples, report.metrics) for device, report in sorted(self._reports.items())
        )
        return EvaluationDone(version=self._version, n_asked=self._n_asked, reports=reports)
