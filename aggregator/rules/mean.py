"""The weighted mean, and FedNova's.

The weighted mean is FedAvg's and FedSGD's rule: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-
Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017, arXiv 1602.05629), Algorithm 1:
w ← Σ (n_k/n) w_k, which with delta_k = w_k − w is w + Σ (n_k/n) delta_k. Choose it whenever every device is believed.
Here n sums over the updates that were accepted, not over the population, as in their implementation.

With `normalize = "steps"` the mean is FedNova's: Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency
Problem in Heterogeneous Federated Optimization" (NeurIPS 2020, arXiv 2007.07481), §4, for plain SGD on the devices:
(Σ p_k τ_k) · Σ p_k delta_k/τ_k with p_k = weight_k / Σ weight and τ_k the steps that a device took. Choose it where
devices take unequal numbers of steps, as with equal seconds of work: in the plain mean, who takes twice the steps pulls
twice as far towards its own data. FedProx's steps are worth less than one each: τ_k is `effective_steps` there, and any
number. Differs: buffers (running statistics) are no steps, and take the plain mean; of late updates, too, each counts
by its own steps, and its p_k is damped. A device's word on its steps is believed, as is its word on its examples.
"""

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.rule import BLOCK_PARAMS, Blocks, Delta, RuleState, check_weight, in_order
from shared.errors import InvalidState

__all__ = ["Mean"]


class Mean:
    """Σ weight_k delta_k / Σ weight_k; or FedNova's mean.

    Args:
        by_steps: (n_params,) bool, which parameters are normalised by steps; None: none is.
    """

    def __init__(self, by_steps: NDArray[np.bool_] | None = None) -> None:
        self._by_steps = by_steps

    def init(self, n_params: int) -> RuleState:
        return RuleState(np.zeros(n_params, dtype=np.float64))

    def accumulate(
        self, state: RuleState, update: Blocks, weight: float, *, scale: float = 1.0, n_steps: float = 1
    ) -> None:
        check_weight(weight)
        factor, n_steps = weight * scale, max(1, n_steps)
        scratch = np.empty(min(BLOCK_PARAMS, len(state.total)), dtype=np.float64)
        for start, block in in_order(update, len(state.total)):
            stop = start + len(block)
            product = scratch[: len(block)]
            # without dtype numpy would multiply in float32 and lose what the sum is there to keep
            np.multiply(block, factor, out=product, dtype=np.float64)
            if self._by_steps is not None:
                np.divide(product, n_steps, out=product, where=self._by_steps[start:stop])
            state.total[start:stop] += product
        state.weight += weight
        state.steps += weight * n_steps
        state.n_updates += 1

    def finalize(self, state: RuleState) -> Delta:
        if not state.n_updates:
            raise InvalidState("the mean of no updates")
        state.total /= state.weight
        if self._by_steps is not None:
            np.multiply(state.total, state.steps / state.weight, out=state.total, where=self._by_steps)
        return state.total
