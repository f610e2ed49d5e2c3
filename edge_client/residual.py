"""What the codec left out of the last update that counts, among what this client keeps.

It lies beside the task's own state under a name that no model has, so that it becomes current with its update and is
rolled back with it (`local_state.py`); the task never sees it.

Not here: what is left out (`shared/codecs/feedback.py`).
"""

from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

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
    cause, remedy = _fault(residual, n_params)
    if not cause:
        return own, residual
    structlog.get_logger().error(
        "residual_damaged",
        cause=cause,
        so="what the codec had left out of earlier updates is lost; training goes on without",
        remedy=remedy,
    )
    return own, None


def _fault(residual: NDArray[Any], n_params: int) -> tuple[str, str]:
    """Return what is wrong with a residual, and what to do; "" for nothing."""
    if residual.shape != (n_params,):
        remedy = "nothing, if the model has changed under the same name of the run; else see who writes to this folder"
        return f"it is of shape {residual.shape}, and {n_params} values travel", remedy
    remedy = "nothing this once; else look at this device's memory and disk"
    if residual.dtype != np.float32:
        return f"it is {residual.dtype}, not float32", remedy
    return ("", "") if np.isfinite(residual).all() else ("it holds NaN or Inf", remedy)


def with_residual(state: Arrays, residual: Vector | None) -> Arrays:
    """Return what is to be kept: the task's own state, and the residual if there is one."""
    if residual is None:
        return state
    return {**state, RESIDUAL: residual}
