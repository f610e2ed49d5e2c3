"""What q-FedAvg asks of every update: how bad the received model was on the device's own training examples.

Li, Sanjabi, Beirami, Smith, "Fair Resource Allocation in Federated Learning" (ICLR 2020, arXiv 1905.10497): F_k(w^t).
A task reports it as the metric `initial_loss` (`shared/task.py`); both sides look at it with the same eyes.

Pure. Not here: what is made of it (`aggregator/rules/qfedavg.py`).
"""

import math
from collections.abc import Mapping

from shared.errors import PeerError, Reason
from shared.messages import WireMetric

__all__ = ["INITIAL_LOSS", "MAX_LOSS", "initial_loss_of"]

INITIAL_LOSS = "initial_loss"
"""The metric: mean loss of the received model over the client's training examples."""
MAX_LOSS = 1e9
"""More is no loss: its powers would not stay finite, and who claims it would be the only one who counts."""


def initial_loss_of(metrics: Mapping[str, WireMetric], *, reason: Reason) -> float:
    """Return F_k of a report.

    Args:
        metrics: of the report; a ratio is divided.
        reason: to refuse it for.

    Raises:
        PeerError: it has none, or one that is no loss.
    """
    match metrics.get(INITIAL_LOSS):
        case None:
            wanted = "the mean loss of the received model over the training examples"
            raise PeerError(reason, f"qfedavg needs the metric {INITIAL_LOSS!r}, {wanted}: the report has none")
        case (_, 0):
            raise PeerError(reason, f"{INITIAL_LOSS} is a ratio with the denominator 0")
        case (total, n):
            loss = total / n
        case float() as mean:
            loss = mean
    if not (0 <= loss <= MAX_LOSS) or not math.isfinite(loss):
        raise PeerError(reason, f"{INITIAL_LOSS} = {loss:g}: qfedavg takes 0 to {MAX_LOSS:g}, as of a cross-entropy")
    return loss
