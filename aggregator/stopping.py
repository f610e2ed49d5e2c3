"""When a run has learned enough: versions committed, a metric reached, or patience lost.

A function of the configuration and the committed metrics in their order, so that a restart counts the same.
"""

from collections.abc import Mapping

from aggregator.config import StopSettings

__all__ = ["Stopping"]


class Stopping:
    """Counts towards the end of one run."""

    def __init__(self, settings: StopSettings) -> None:
        self._settings = settings
        self.best: float | None = None
        self.best_version = 0
        self.n_since_best = 0
        self.cause: str | None = None
        self.metrics: dict[str, float] = {}
        """The last known."""

    def committed(self, version: int, metrics: Mapping[str, float]) -> None:
        """Count a committed version, now or when the journal is read back.

        Args:
            version: which it is.
            metrics: of its central evaluation; {} when there was none.
        """
        if self.cause is None and self._settings.rounds is not None and version >= self._settings.rounds:
            self.cause = "rounds"
        if metrics:
            self.evaluated(version, metrics)

    def evaluated(self, version: int, metrics: Mapping[str, float]) -> bool:
        """Count the metrics of a version; return whether it is the best so far."""
        self.metrics = {**self.metrics, **metrics}
        value = metrics.get(self._settings.metric)
        if value is None or value != value:
            return False
        falling = self._settings.is_falling
        is_best = self.best is None or (value < self.best if falling else value > self.best)
        if is_best:
            self.best, self.best_version, self.n_since_best = value, version, 0
        else:
            self.n_since_best += 1
        bound = self._settings.at_most if falling else self._settings.at_least
        if self.cause is None and bound is not None and (value <= bound if falling else value >= bound):
            self.cause = "metric"
        if self.cause is None and self._settings.patience is not None and self.n_since_best >= self._settings.patience:
            self.cause = "patience"
        return is_best
