"""What the codec left out of the last update that counts, among what this client keeps.

It lies beside the task's own state under a name that no model has, so that it becomes current with its update and is
rolled back with it (`local_state.py`); the task never sees it.

Not here: what is left out (`shared/codecs/feedback.py`).
"""

import numpy as np
import structlog

from shared.parameters import Vector
from shared.task import BESIDE_MODEL, Arrays

__all__ = ["RESIDUAL", "with_residual", "without_residual"]

RESIDUAL = f"{BESIDE_MODEL}codec.residual"


def without_residual(state: Arrays, n_params: int) -> tuple[Arrays, Vector | None]:
    """Return the task's own state, and the residual; None: there is none, or it is damaged, which the log says then.

    Args:
        state: of this client and run.
        n_params: that travel.
    """
    own = {name: array for name, array in state.items() if name != RESIDUAL}
    residual = state.get(RESIDUAL)
    if residual is None:
        return own, None
    if residual.dtype != np.float32 or residual.shape != (n_params,) or not np.isfinite(residual).all():
        structlog.get_logger().error(
            "residual_damaged",
            cause=f"{residual.dtype} of shape {residual.shape}, or not finite; {n_params} float32 travel",
            so="what the codec had left out of earlier updates is lost; training goes on without",
            remedy="nothing, if the model has changed under the same run.name",
        )
        return own, None
    return own, residual


def with_residual(state: Arrays, residual: Vector | None) -> Arrays:
    """Return what is to be kept: the task's own state, and the residual if there is one."""
    if residual is None:
        return state
    return {**state, RESIDUAL: residual}
