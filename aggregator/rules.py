"""Aggregation rules: many updates of a cohort become one delta.

The weighted mean is FedAvg's and FedSGD's rule: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-
Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017, arXiv 1602.05629), Algorithm 1:
w ← Σ (n_k/n) w_k, which with delta_k = w_k − w is w + Σ (n_k/n) delta_k. Choose it whenever every device is believed.
Here n sums over the updates that were accepted, not over the population, as in their implementation.

A rule is told an update in blocks and needs no memory for it: the mean streams in O(model) however many devices
report. It sums in float64, in the order in which it is told, so that the same journal gives the same bits.

With `normalize = "steps"` the mean is FedNova's: Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency
Problem in Heterogeneous Federated Optimization" (NeurIPS 2020, arXiv 2007.07481), §4, for plain SGD on the devices:
(Σ p_k τ_k) · Σ p_k delta_k/τ_k with p_k = weight_k / Σ weight and τ_k the steps that a device took. Choose it where
devices take unequal numbers of steps, as with equal seconds of work: in the plain mean, who takes twice the steps pulls
twice as far towards its own data. Differs: buffers (running statistics) are no steps, and take the plain mean; of late
updates, too, each counts by its own steps, and its p_k is damped. A device's word on its steps is believed, as is its
word on its examples.

Not here: whether an update is believed (`admission.py`), decoding it (`folding.py`), moving the model
(`server_optimizer.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, InvalidState

__all__ = ["BLOCK_PARAMS", "RULES", "AggregationRule", "Blocks", "Delta", "RuleState", "rule_named", "weight_of"]

BLOCK_PARAMS = 32_768
"""Parameters a block: 256 KiB as float64, which stays in a core's own cache."""

Delta: TypeAlias = NDArray[np.float64]
Blocks: TypeAlias = Iterable[tuple[int, NDArray[np.float32]]]
"""An update from its first parameter to its last: (offset of the block, (at most BLOCK_PARAMS,) float32)."""


@dataclass(slots=True)
class RuleState:
    """What has been summed up so far. Belongs to the rule that made it.

    Args:
        total: (n_params,) float64, Σ weight x scale x delta.
        weight: Σ weight.
        steps: Σ weight x steps.
        n_updates: how many.
    """

    total: Delta
    weight: float = 0.0
    steps: float = 0.0
    n_updates: int = 0


class AggregationRule(Protocol):
    """A pure triple: begin, add, finish."""

    def init(self, n_params: int) -> RuleState:
        """Return the state before the first update."""

    def accumulate(
        self, state: RuleState, update: Blocks, weight: float, *, scale: float = 1.0, n_steps: int = 1
    ) -> None:
        """Add one update to `state`.

        Args:
            state: changed in place.
            update: read once, never kept.
            weight: > 0; what it counts against the others.
            scale: of the update itself, such as a clip factor; does not change what it counts.
            n_steps: that its device took, >= 0; 0 counts as one.

        Raises:
            InvalidState: a weight that is not positive and finite, or blocks that are not the whole vector; the state
                is spoilt in the latter case.
        """

    def finalize(self, state: RuleState) -> Delta:
        """Return the aggregated delta: (n_params,) float64, `state`'s own buffer. The state is used up.

        Raises:
            InvalidState: nothing was accumulated.
        """


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
        self, state: RuleState, update: Blocks, weight: float, *, scale: float = 1.0, n_steps: int = 1
    ) -> None:
        if not (0 < weight < np.inf):
            raise InvalidState(f"an update with weight {weight!r}")
        factor, n_steps = weight * scale, max(1, n_steps)
        scratch = np.empty(min(BLOCK_PARAMS, len(state.total)), dtype=np.float64)
        stop = 0
        for start, block in update:
            if start != stop or start + len(block) > len(state.total):
                raise InvalidState(f"block [{start}, {start + len(block)}) after {stop} of {len(state.total)}")
            stop = start + len(block)
            product = scratch[: len(block)]
            # without dtype numpy would multiply in float32 and lose what the sum is there to keep
            np.multiply(block, factor, out=product, dtype=np.float64)
            if self._by_steps is not None:
                np.divide(product, n_steps, out=product, where=self._by_steps[start:stop])
            state.total[start:stop] += product
        if stop != len(state.total):
            raise InvalidState(f"an update of {stop} parameters for a model of {len(state.total)}")
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


RULES: Mapping[str, Callable[[NDArray[np.bool_] | None], AggregationRule]] = MappingProxyType({"mean": Mean})
"""Every rule by its name in the settings; takes which parameters it normalises by steps."""


def rule_named(
    name: str, *, normalize: Literal["none", "steps"] = "none", is_trainable: NDArray[np.bool_] | None = None
) -> AggregationRule:
    """Return a rule.

    Args:
        name: as in the settings.
        normalize: "steps": as FedNova does.
        is_trainable: (n_params,) bool, the parameters that are; needed for that.

    Raises:
        ConfigError: there is none of that name.
        InvalidState: nobody says which parameters are trainable.
    """
    if name not in RULES:
        raise ConfigError(f"no aggregation rule {name!r}", hint=f"there are: {', '.join(RULES)}")
    if normalize == "steps" and is_trainable is None:
        raise InvalidState("steps of which parameters?")
    return RULES[name](is_trainable if normalize == "steps" else None)


def weight_of(weighting: Literal["examples", "uniform"], num_examples: int, max_examples: int | None = None) -> float:
    """Return what an update counts: its examples (n_k), capped, or one.

    Args:
        weighting: "uniform" when a device is as good as another, whatever it claims to hold.
        num_examples: as the device reports it, >= 1.
        max_examples: cap on the weight that one device can claim; None: no cap.
    """
    if weighting == "uniform":
        return 1.0
    return float(num_examples if max_examples is None else min(num_examples, max_examples))
