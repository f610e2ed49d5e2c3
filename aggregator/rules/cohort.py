"""Rules that look at all updates of a cohort side by side, such as medians: what they are given, and what they are.

A streaming rule forgets an update as soon as it was added. These cannot: they are told every update once, which is
written away as a row of float32 (`Rows`), and read the rows back as blocks of columns when the round is closed. Memory:
O(model) for the result, and one block of columns, at most `COLUMN_BYTES`, however many updates there are (of more than
16,384, 2 KiB each); disk: 4 bytes a parameter and update while the round is open. What a rule needs of distances it
takes from the Gram matrix, (n, n) float64, made in one pass over the rows; in float64 a distance of 1e-7 of the rows'
own length is still seen.

Buffers (a norm layer's running statistics) are in units of their own, and no distance looks at them: whoever lies there
alone would be believed by every rule that chooses by distances. They take the median of each coordinate, whatever the
rule makes of the rest, and are never mixed.

Every update counts once: `weight` is not used, for a device can claim any number of examples. Only the geometric median
knows weights. A factor such as a late update's discount is applied to the row.

Not here: the rules (`median.py`, `krum.py`, `geometric_median.py`, `clipping.py`), where rows lie (`update_rows.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.rule import Blocks, Delta, check_weight
from shared.errors import ConfigError, InvalidState

__all__ = ["COLUMN_BYTES", "Cohort", "CohortRule", "CohortState", "OverCohort", "Rows", "too_few", "weighted_sum"]

COLUMN_BYTES = 2**25
"""Of one block of columns as float64: 100 updates are read 41,943 parameters at a time."""
LEAST_COLUMNS = 256

Matrix = NDArray[np.float64]


class Rows(Protocol):
    """Where updates lie until their round is closed."""

    @property
    def n_rows(self) -> int:
        """How many there are."""

    def append(self, blocks: Blocks, scale: float) -> None:
        """Add an update.

        Args:
            blocks: of it, read once.
            scale: factor on each value.

        Raises:
            InvalidState: the blocks are not the whole vector, from first to last; the row is taken back.
        """

    def columns(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return parameters [start, stop) of all updates: (n_rows, stop - start) float32, the caller's own."""

    def close(self) -> None:
        """Give back what they lie in."""


@dataclass
class Cohort:
    """The updates of one version, side by side.

    Args:
        rows: the updates themselves.
        n_params: of each.
        weights: (n,) float64, what each would count in a weighted mean.
        is_trainable: (n_params,) bool, the parameters over which distances are taken; None: all.
        mixed_from: a cohort and a mixing, (n, n) float64: row i of this one is Σ_j mixing[i, j] x row j of that. None:
            row i is update i.
    """

    rows: Rows
    n_params: int
    weights: NDArray[np.float64]
    is_trainable: NDArray[np.bool_] | None = None
    mixed_from: "tuple[Cohort, Matrix] | None" = None

    def __len__(self) -> int:
        return self.rows.n_rows

    def blocks(self) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """Yield (offset, (n, width) float32 or, where rows are mixed, float64) from the first parameter to the last."""
        if self.mixed_from is not None:
            source, mixing = self.mixed_from
            for start, block in source.blocks():
                yield start, mixing @ block.astype(np.float64)
            return
        for start, stop in self.spans():
            yield start, self.rows.columns(start, stop)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the blocks of columns."""
        width = max(LEAST_COLUMNS, COLUMN_BYTES // 8 // max(1, len(self)))
        for start in range(0, self.n_params, width):
            yield start, min(start + width, self.n_params)

    @cached_property
    def gram(self) -> Matrix:
        """Inner products of the rows, over what is trainable: (n, n) float64.

        Running statistics are in units of their own, in which an honest device may be far from all others.
        """
        if self.mixed_from is not None:
            source, mixing = self.mixed_from
            mixed: Matrix = mixing @ source.gram @ mixing.T
            return mixed
        total = np.zeros((len(self), len(self)))
        for start, block in self.blocks():
            wide = block.astype(np.float64)
            if self.is_trainable is not None:
                wide *= self.is_trainable[start : start + block.shape[1]]
            total += wide @ wide.T
        return total

    @cached_property
    def squared_distances(self) -> Matrix:
        """‖x_i − x_j‖²: (n, n) float64, >= 0, 0 on the diagonal."""
        squares = np.diagonal(self.gram)
        found = np.maximum(squares[:, None] + squares[None, :] - 2 * self.gram, 0.0)
        np.fill_diagonal(found, 0.0)
        return found

    def mixed(self, mixing: Matrix) -> "Cohort":
        """Return a cohort whose rows are sums of this one's.

        Args:
            mixing: (n, n) float64.
        """
        return Cohort(self.rows, self.n_params, self.weights, self.is_trainable, (self, mixing))

    def distances_to(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ‖x_i − Σ_j factors_j x_j‖ for every row i: (n,) float64.

        Args:
            factors: (n,) float64.
        """
        across = self.gram @ factors
        squares = np.diagonal(self.gram) - 2 * across + factors @ across
        found: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0))
        return found


class CohortRule(Protocol):
    """A function of the whole cohort."""

    def check(self, n_updates: int) -> None:
        """Refuse a cohort that the rule's theorem excludes.

        Raises:
            ConfigError: it is too small for the devices that may send anything.
        """

    def combine(self, cohort: Cohort) -> Delta:
        """Return the aggregated delta: (n_params,) float64."""


@dataclass(slots=True)
class CohortState:
    """What an open round has: its rows and weights."""

    rows: Rows
    n_params: int
    weights: list[float] = field(default_factory=list)

    @property
    def n_updates(self) -> int:
        """How many were added."""
        return len(self.weights)


class OverCohort:
    """A `CohortRule` as the triple that the engine calls (`AggregationRule`).

    Args:
        rule: of the cohort.
        new_rows: makes an empty place for updates of so many parameters.
        is_trainable: as in `Cohort`.
    """

    def __init__(
        self, rule: CohortRule, new_rows: Callable[[int], Rows], is_trainable: NDArray[np.bool_] | None = None
    ) -> None:
        self._rule, self._new_rows, self._is_trainable = rule, new_rows, is_trainable

    def init(self, n_params: int) -> CohortState:
        return CohortState(self._new_rows(n_params), n_params)

    def accumulate(
        self, state: CohortState, update: Blocks, weight: float, *, scale: float = 1.0, n_steps: float = 1
    ) -> None:
        check_weight(weight)
        state.rows.append(update, scale)
        state.weights.append(weight)

    def finalize(self, state: CohortState) -> Delta:
        if not state.n_updates:
            raise InvalidState("a rule over no updates")
        try:
            self._rule.check(state.n_updates)
            cohort = Cohort(state.rows, state.n_params, np.array(state.weights), self._is_trainable)
            delta = self._rule.combine(cohort)
            _take_medians_of_buffers(cohort, delta)
            return delta
        finally:
            state.rows.close()


def _take_medians_of_buffers(cohort: Cohort, delta: Delta) -> None:
    """Let what is not trainable be the median of each coordinate, in place."""
    if cohort.is_trainable is None or cohort.is_trainable.all():
        return
    for start, stop in cohort.spans():
        is_buffer = ~cohort.is_trainable[start:stop]
        if is_buffer.any():
            values = cohort.rows.columns(start, stop)[:, is_buffer].astype(np.float64)
            delta[start:stop][is_buffer] = np.median(values, axis=0)


def weighted_sum(cohort: Cohort, factors: NDArray[np.float64]) -> Delta:
    """Return Σ_i factors_i x_i: (n_params,) float64, in one pass over the rows."""
    total = np.empty(cohort.n_params)
    for start, block in cohort.blocks():
        total[start : start + block.shape[1]] = factors @ block.astype(np.float64)
    return total


def too_few(rule: str, n_updates: int, f: int, *, least: int, theorem: str) -> None:
    """Refuse a cohort that is too small.

    Args:
        rule: its name in the settings.
        n_updates: n.
        f: updates of it that may be anything.
        least: n that the theorem asks for.
        theorem: that says so, in words.

    Raises:
        ConfigError: n is below `least`.
    """
    if n_updates < least:
        raise ConfigError(
            f"{rule} over {n_updates} updates cannot withstand server.rule.byzantine = {f}: {theorem} asks for {least}",
            hint=f"let round.report_goal x round.quorum be at least {least}, or lower server.rule.byzantine",
        )
