"""Aggregation rules: many updates of a cohort become one delta.

The weighted mean is FedAvg's and FedSGD's rule: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-
Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017, arXiv 1602.05629), Algorithm 1:
w ← Σ (n_k/n) w_k, which with delta_k = w_k − w is w + Σ (n_k/n) delta_k. Choose it whenever every device is believed.
Here n sums over the updates that were accepted, not over the population, as in their implementation.

A rule is told an update in blocks and needs no memory for it: the mean streams in O(model) however many devices
report. It sums in float64, in the order in which it is told, so that the same journal gives the same bits.

Not here: whether an update is believed (`admission.py`), decoding it (`folding.py`), moving the model
(`server_optimizer.py`).
"""

from collections.abc import Iterable, Mapping
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
        n_updates: how many.
    """

    total: Delta
    weight: float = 0.0
    n_updates: int = 0


class AggregationRule(Protocol):
    """A pure triple: begin, add, finish."""

    def init(self, n_params: int) -> RuleState:
        """Return the state before the first update."""

    def accumulate(self, state: RuleState, update: Blocks, weight: float, *, scale: float = 1.0) -> None:
        """Add one update to `state`.

        Args:
            state: changed in place.
            update: read once, never kept.
            weight: > 0; what it counts against the others.
            scale: of the update itself, such as a clip factor; does not change what it counts.

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
    """Σ weight_k delta_k / Σ weight_k."""

    def init(self, n_params: int) -> RuleState:
        return RuleState(np.zeros(n_params, dtype=np.float64))

    def accumulate(self, state: RuleState, update: Blocks, weight: float, *, scale: float = 1.0) -> None:
        if not (0 < weight < np.inf):
            raise InvalidState(f"an update with weight {weight!r}")
        factor = weight * scale
        scratch = np.empty(min(BLOCK_PARAMS, len(state.total)), dtype=np.float64)
        stop = 0
        for start, block in update:
            if start != stop or start + len(block) > len(state.total):
                raise InvalidState(f"block [{start}, {start + len(block)}) after {stop} of {len(state.total)}")
            stop = start + len(block)
            product = scratch[: len(block)]
            # without dtype numpy would multiply in float32 and lose what the sum is there to keep
            np.multiply(block, factor, out=product, dtype=np.float64)
            state.total[start:stop] += product
        if stop != len(state.total):
            raise InvalidState(f"an update of {stop} parameters for a model of {len(state.total)}")
        state.weight += weight
        state.n_updates += 1

    def finalize(self, state: RuleState) -> Delta:
        if not state.n_updates:
            raise InvalidState("the mean of no updates")
        state.total /= state.weight
        return state.total


RULES: Mapping[str, AggregationRule] = MappingProxyType({"mean": Mean()})
"""Every rule by its name in the settings."""


def rule_named(name: str) -> AggregationRule:
    """Return a rule.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return RULES[name]
    except KeyError:
        raise ConfigError(f"no aggregation rule {name!r}", hint=f"there are: {', '.join(RULES)}") from None


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
