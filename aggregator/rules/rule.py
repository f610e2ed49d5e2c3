"""What an aggregation rule is: many updates of a cohort become one delta.

A rule is told an update in blocks and needs no memory for it: the mean streams in O(model) however many devices
report. It sums in float64, in the order in which it is told, so that the same journal gives the same bits.

Not here: the rules themselves, one family a file; whether an update is believed (`admission.py`), decoding it
(`folding.py`), moving the model (`server_optimizers/`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.codecs import BLOCK_PARAMS
from shared.errors import InvalidState

__all__ = ["BLOCK_PARAMS", "AggregationRule", "Blocks", "Delta", "OpenRound", "RuleState", "clip_scale", "weight_of"]

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

    @property
    def n_params(self) -> int:
        """Of the model."""
        return len(self.total)


class OpenRound(Protocol):
    """What the engine may know of a rule's state."""

    @property
    def n_params(self) -> int:
        """Of the model."""

    @property
    def n_updates(self) -> int:
        """How many were added."""


S = TypeVar("S", bound=OpenRound)


class AggregationRule(Protocol[S]):
    """A pure triple: begin, add, finish."""

    def init(self, n_params: int) -> S:
        """Return the state before the first update."""

    def accumulate(self, state: S, update: Blocks, weight: float, *, scale: float = 1.0, n_steps: float = 1) -> None:
        """Add one update to `state`.

        Args:
            state: changed in place.
            update: read once, never kept.
            weight: > 0; what it counts against the others.
            scale: of the update itself, such as a clip factor; does not change what it counts.
            n_steps: that its device took, >= 0, or what they are worth; below one counts as one.

        Raises:
            InvalidState: a weight that is not positive and finite, or blocks that are not the whole vector; the state
                is spoilt in the latter case.
        """

    def finalize(self, state: S) -> Delta:
        """Return the aggregated delta: (n_params,) float64, `state`'s own buffer. The state is used up.

        Raises:
            InvalidState: nothing was accumulated.
        """


def in_order(update: Blocks, n_params: int) -> Blocks:
    """Yield the blocks of an update, each where the one before has ended, to the last parameter.

    Args:
        update: read once.
        n_params: of the model.

    Raises:
        InvalidState: they are not the whole vector; what came before the fault has been yielded.
    """
    stop = 0
    for start, block in update:
        if start != stop or start + len(block) > n_params:
            raise InvalidState(f"block [{start}, {start + len(block)}) after {stop} of {n_params}")
        stop = start + len(block)
        yield start, block
    if stop != n_params:
        raise InvalidState(f"an update of {stop} parameters for a model of {n_params}")


def check_weight(weight: float) -> None:
    """Refuse a weight that is not positive and finite.

    Raises:
        InvalidState: so it is.
    """
    if not (0 < weight < np.inf):
        raise InvalidState(f"an update with weight {weight!r}")


def clip_scale(norm: float, clip_norm: float | None) -> float:
    """Return the factor with which an update has at most a norm: min(1, clip_norm / norm).

    Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?" (arXiv 1911.07963), §4. It bounds what
    one device can do to a version, whatever the rule, and stops no patient attacker. It costs little where the bound is
    about the norm of honest updates.

    Args:
        norm: 2-norm of the update, >= 0.
        clip_norm: > 0; None: no update is clipped.
    """
    return 1.0 if clip_norm is None or norm <= clip_norm else clip_norm / norm


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
