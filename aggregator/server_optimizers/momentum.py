"""Plain SGD on the server, and SGD with momentum.

`sgd` with a rate of 1 is FedAvg itself: the next model is the mean of the devices' models. Choose it first; it has one
number, whose default is right. McMahan et al. (arXiv 1602.05629), Algorithm 1; Reddi et al. (arXiv 2003.00295),
Algorithm 1 with SERVEROPT = SGD: w ← w + η delta.

`fedavgm` is FedAvgM: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification" (2019, arXiv 1909.06335): v ← β v + delta, w ← w + η v, with v = 0 at first; theirs is η = 1. Choose it
when devices hold different kinds of data and rounds pull the model hither and thither: what they agree on adds up, to
1/(1 − β) times one delta, and what they do not cancels. Hence a rate that was right for `sgd` is 1/(1 − β) times too
high once v has built up, where devices agree.
"""

import numpy as np
from numpy.typing import NDArray

from aggregator.rules import BLOCK_PARAMS, Delta
from aggregator.server_optimizers.optimizer import OptimizerState, trainable_blocks
from shared.parameters import ParameterSpec, Vector

__all__ = ["FedAvgM", "Sgd"]


class Sgd:
    """w ← w + η delta. Keeps nothing."""

    def init(self, spec: ParameterSpec) -> OptimizerState:
        return {}

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        moved = np.empty(spec.n_params, dtype=np.float32)
        step = np.empty(min(BLOCK_PARAMS, spec.n_params))
        with np.errstate(all="ignore"):  # what is not finite is refused by whoever called
            for block in trainable_blocks(spec):
                part = np.multiply(delta[block], learning_rate, out=step[: block.stop - block.start])
                part += parameters[block]
                moved[block] = part
        return moved, state


class FedAvgM:
    """v ← β v + delta, w ← w + η v.

    Args:
        momentum: β in [0, 1).
    """

    def __init__(self, momentum: float = 0.9) -> None:
        self._momentum = momentum

    def init(self, spec: ParameterSpec) -> OptimizerState:
        """Return {"v": (n_params,) zeros}."""
        return {"v": np.zeros(spec.n_params, dtype=np.float32)}

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        old, moved = state["v"], np.empty(spec.n_params, dtype=np.float32)
        v: NDArray[np.float32] = np.zeros_like(old)
        with np.errstate(all="ignore"):
            for block in trainable_blocks(spec):
                summed = self._momentum * old[block].astype(np.float64) + delta[block]
                v[block] = summed
                moved[block] = parameters[block] + learning_rate * summed
        return moved, {"v": v}
