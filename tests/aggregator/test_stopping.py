"""When a run has learned enough."""

from typing import Any

import pytest

from aggregator.config import StopSettings
from aggregator.stopping import Stopping


def after(values: list[float], **settings: Any) -> Stopping:
    """Return the counts after versions with these values of the metric."""
    stopping = Stopping(StopSettings(**settings))
    for version, value in enumerate(values, 1):
        stopping.committed(version, {stopping_metric(settings): value})
    return stopping


def stopping_metric(settings: dict[str, Any]) -> str:
    """Return the metric's name."""
    return str(settings.get("metric", "accuracy"))


def test_rounds_count_versions() -> None:
    """Committed versions, with or without metrics."""
    stopping = Stopping(StopSettings(rounds=2))
    stopping.committed(1, {})
    assert stopping.cause is None
    stopping.committed(2, {})
    assert stopping.cause == "rounds"


@pytest.mark.parametrize(
    ("values", "settings", "cause"),
    [
        ([0.5, 0.9], {"at_least": 0.9}, "metric"),
        ([0.5, 0.899], {"at_least": 0.9}, None),
        ([0.5, 0.2], {"at_most": 0.2, "metric": "loss"}, "metric"),
        ([0.5, 0.4, 0.3, 0.5], {"patience": 3}, "patience"),
        ([0.5, 0.4, 0.6, 0.5, 0.5], {"patience": 3}, None),
        ([0.5, 0.5, 0.5], {"patience": 2}, "patience"),  # as good is not better
        ([0.5, 0.4, 0.3, 0.2], {"patience": 2, "metric": "loss"}, None),
        ([0.2, 0.3, 0.4], {"patience": 2, "metric": "loss"}, "patience"),
        ([0.2, 0.3, 0.4], {"patience": 2, "metric": "wer", "at_most": 0.1}, "patience"),
    ],
)
def test_metric_and_patience(values: list[float], settings: dict[str, Any], cause: str | None) -> None:
    """Good enough, or not better for so many evaluations; a loss is better when it falls."""
    assert after(values, **settings).cause == cause


def test_first_cause_stays() -> None:
    """What ended the run is not renamed by what comes after."""
    stopping = after([0.95, 0.1, 0.1], rounds=3, at_least=0.9, patience=1)
    assert stopping.cause == "metric"


def test_best_is_remembered_with_its_version() -> None:
    """The first of equals; `evaluated` says whether it was the best."""
    stopping = after([0.5, 0.7, 0.7, 0.6], rounds=9)
    assert (stopping.best, stopping.best_version, stopping.n_since_best) == (0.7, 2, 2)
    assert stopping.evaluated(5, {"accuracy": 0.8})
    assert not stopping.evaluated(6, {"accuracy": 0.8})


def test_metric_that_is_missing_or_no_number_counts_for_nothing() -> None:
    """NaN is never the best, and never costs patience."""
    stopping = after([0.5], patience=1)
    assert not stopping.evaluated(2, {"loss": 1.0})
    assert not stopping.evaluated(3, {"accuracy": float("nan")})
    assert (stopping.cause, stopping.best_version) == (None, 1)


def test_last_known_metrics_are_kept() -> None:
    """Central and federated evaluation come at different versions: each name keeps its last value."""
    stopping = Stopping(StopSettings(rounds=9))
    stopping.committed(1, {"accuracy": 0.5, "loss": 1.0})
    stopping.committed(2, {"accuracy": 0.6})
    stopping.committed(3, {})
    assert stopping.metrics == {"accuracy": 0.6, "loss": 1.0}
