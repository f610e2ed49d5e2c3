"""What is a loss, and what is refused by name."""

import math

import pytest

from shared.errors import PeerError, Reason
from shared.initial_loss import MAX_LOSS, initial_loss_of
from shared.messages import WireMetric


@pytest.mark.parametrize(("metric", "loss"), [(0.5, 0.5), ((3.0, 4.0), 0.75), (0.0, 0.0), (MAX_LOSS, MAX_LOSS)])
def test_loss_is_a_mean_or_a_ratio(metric: WireMetric, loss: float) -> None:
    """Zero is one, too."""
    assert initial_loss_of({"initial_loss": metric, "loss": 9.0}, reason=Reason.FIELDS) == loss


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (None, "qfedavg needs the metric 'initial_loss'.*the report has none"),
        (-0.1, "initial_loss = -0.1"),
        ((-1.0, 2.0), "initial_loss = -0.5"),
        ((1.0, 0.0), "denominator 0"),
        (2 * MAX_LOSS, "initial_loss = 2e"),
        (math.nan, "initial_loss = nan"),
        (math.inf, "initial_loss = inf"),
    ],
)
def test_what_is_no_loss_is_refused_by_name(metric: WireMetric | None, said: str) -> None:
    """For the reason of whoever asks."""
    metrics: dict[str, WireMetric] = {"loss": 1.0}
    if metric is not None:
        metrics["initial_loss"] = metric
    with pytest.raises(PeerError, match=said) as caught:
        initial_loss_of(metrics, reason=Reason.RESULT)
    assert caught.value.reason is Reason.RESULT
