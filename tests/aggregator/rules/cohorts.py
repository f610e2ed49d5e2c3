"""Cohorts for tests of rules: rows in memory, and small matrices of updates."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aggregator.rules.cohort import Cohort, CohortRule
from aggregator.rules.rule import Blocks

__all__ = ["InMemory", "combined", "honest"]


@dataclass
class InMemory:
    """Rows in a list; see `Rows`."""

    values: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        return len(self.values)

    def append(self, blocks: Blocks, scale: float) -> None:
        self.values.append(np.concatenate([block for _, block in blocks]) * np.float32(scale))

    def columns(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.array(self.values)[:, start:stop]

    def close(self) -> None:
        self.values.clear()


def cohort_of(updates: ArrayLike, weights: Sequence[float] | None = None) -> Cohort:
    """Return a cohort of the rows of a matrix (n, n_params)."""
    rows = np.asarray(updates, dtype=np.float32)
    counts = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    return Cohort(InMemory(list(rows)), rows.shape[1], counts)


def combined(rule: CohortRule, updates: ArrayLike, weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Return what a rule makes of the rows of a matrix (n, n_params)."""
    cohort = cohort_of(updates, weights)
    rule.check(len(cohort))
    return rule.combine(cohort)


def honest(n: int, n_params: int, seed: int = 1) -> NDArray[np.float32]:
    """Return updates around one: (n, n_params), standard normal."""
    return (1 + np.random.default_rng(seed).standard_normal((n, n_params))).astype(np.float32)
