"""The work that all contenders do: fetch a model, add one to it, send it back. No learning.

The model holds whole numbers, small enough for float32, so that a finished run proves itself: after n rounds every
parameter has grown by exactly n.

NumPy alone is imported: this runs in Flower's environment, too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODEL_BYTES", "NAME", "add_one", "deviation", "first_model"]

NAME = "w"
"""Of the model's one parameter array."""
MODEL_BYTES = "BENCH_MODEL_BYTES"
"""The environment variable that tells a process how large the model is."""
_PERIOD = 1021
"""First parameters repeat after so many; prime, so that no two chunks are the same."""

Model = NDArray[np.float32]


def first_model(model_bytes: int) -> Model:
    """Return the model before the first round: (model_bytes / 4,) float32."""
    return (np.arange(model_bytes // 4, dtype=np.uint32) % _PERIOD).astype(np.float32)


def add_one(model: NDArray[Any]) -> Model:
    """Return what a device sends back, in memory of its own."""
    grown: Model = np.add(model, 1, dtype=np.float32)
    return grown


def deviation(model: NDArray[Any], n_rounds: int) -> float:
    """Return the largest difference between a final model and what n rounds make of the first one; 0 if all is well."""
    return float(np.max(np.abs(model - first_model(4 * model.size) - np.float32(n_rounds))))
