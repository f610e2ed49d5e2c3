"""q-FedAvg: devices on which the model is worse pull more, so that it becomes as good for everybody.

Li, Sanjabi, Beirami, Smith, "Fair Resource Allocation in Federated Learning" (ICLR 2020, arXiv 1905.10497), Algorithm
2, minimises Σ p_k F_k^(q+1) / (q + 1), where F_k is the loss on device k. With F_k of the received model, L = 1/η and
the device's own Δw_k = w − w_k, which is −delta_k:

    Δ_k = F_k^q L Δw_k
    h_k = q F_k^(q−1) ‖L Δw_k‖² + L F_k^q
    w ← w − Σ Δ_k / Σ h_k, and so here: delta = Σ p_k F_k^q L delta_k / Σ p_k h_k

q = 0 is FedAvg; the larger q, the more the worst off count. Choose it when the accuracy on the worst tenth of devices
matters; on average the model may become a little worse. Start with 0.1 or 1.

How it is done. Everything streams: Σ and ‖delta_k‖² come from one pass over an update. L is that of each update: η is
the rate that its device was told to train with, whatever the schedule says now. The paper samples devices by p_k and
takes plain sums; here devices are drawn alike, and p_k is the weight: one by default. Unequal step counts enter as in
the paper, where every device takes E epochs: nothing divides by them, and who takes twice the steps has about twice the
Δw_k and four times the ‖Δw_k‖². A late update's delta_k is damped, its h_k is not, for h_k is a property of the loss:
so it moves the model less. Differs: 1e-10 is added to F_k, as in the authors' code, so that F_k = 0 has a power below
0; buffers take the mean weighted by p_k, and are no part of ‖Δw_k‖².

A device's word on its loss is believed: one that claims a thousand times the loss of the others counts 1000^q times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.rule import BLOCK_PARAMS, Blocks, Delta, RuleState, check_weight, in_order
from shared.errors import InvalidState

__all__ = ["QFedAvg", "QState"]

LEAST_LOSS = 1e-10


@dataclass(slots=True)
class QState(RuleState):
    """As `RuleState`, and what the trainables are divided by.

    Args:
        lipschitz: Σ weight x h.
    """

    lipschitz: float = 0.0


class QFedAvg:
    """q-FedAvg.

    Args:
        q: >= 0.
        is_trainable: (n_params,) bool.
        loss: F_k >= 0 of the update that is accumulated next, if any is.
        learning_rate: η > 0 that it was trained with.
    """

    def __init__(
        self, q: float, is_trainable: NDArray[np.bool_], *, loss: float = 0.0, learning_rate: float = 1.0
    ) -> None:
        self._q, self._is_trainable, self._loss, self._learning_rate = q, is_trainable, loss, learning_rate

    def told(self, *, loss: float, learning_rate: float) -> "QFedAvg":
        """Return the same rule for one update."""
        return QFedAvg(self._q, self._is_trainable, loss=loss, learning_rate=learning_rate)

    def init(self, n_params: int) -> QState:
        return QState(np.zeros(n_params, dtype=np.float64))

    def accumulate(
        self, state: RuleState, update: Blocks, weight: float, *, scale: float = 1.0, n_steps: float = 1
    ) -> None:
        if not isinstance(state, QState):
            raise InvalidState("the state of another rule")
        check_weight(weight)
        loss, slope = self._loss + LEAST_LOSS, 1 / self._learning_rate
        factor = weight * scale * loss**self._q * slope
        scratch = np.empty(min(BLOCK_PARAMS, len(state.total)), dtype=np.float64)
        squares = 0.0
        for start, block in in_order(update, len(state.total)):
            stop = start + len(block)
            part, is_trainable = scratch[: len(block)], self._is_trainable[start:stop]
            np.multiply(block, is_trainable, out=part, dtype=np.float64)
            squares += float(np.dot(part, part))
            np.multiply(block, np.where(is_trainable, factor, weight * scale), out=part, dtype=np.float64)
            state.total[start:stop] += part
        state.weight += weight
        state.lipschitz += weight * (self._q * loss ** (self._q - 1) * slope**2 * squares + slope * loss**self._q)
        state.n_updates += 1

    def finalize(self, state: RuleState) -> Delta:
        if not isinstance(state, QState) or not state.n_updates:
            raise InvalidState("q-FedAvg of no updates")
        for start in range(0, len(state.total), BLOCK_PARAMS):
            block = slice(start, start + BLOCK_PARAMS)
            with np.errstate(all="ignore"):  # what is not finite is refused by the server optimizer's check
                state.total[block] /= np.where(self._is_trainable[block], state.lipschitz, state.weight)
        return state.total
