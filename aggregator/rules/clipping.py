"""Centered clipping: no update may pull farther than a radius from a moving centre.

Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization" (ICML 2021, arXiv
2012.10333), Algorithm 2: v ← v + (1/n) Σ (x_k − v) · min(1, τ/‖x_k − v‖), several times. Differs: the paper starts
from the last round's aggregate; a rule of ours keeps nothing between versions and starts from v = 0, so that radius and
iterations must carry v to where honest updates lie: L · τ is as far as it can go.

Every v is a sum of the updates, so that all of it happens on the Gram matrix. Memory: that matrix, a block of columns.
"""

import numpy as np

from aggregator.rules.cohort import Cohort, weighted_sum
from aggregator.rules.rule import Delta

__all__ = ["CenteredClipping"]


class CenteredClipping:
    """The mean of differences to a centre, each clipped, around which the next is taken.

    Args:
        radius: τ, the largest distance to the centre at which an update counts in full.
        iterations: L.
    """

    def __init__(self, radius: float, iterations: int) -> None:
        self._radius, self._iterations = radius, iterations

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: any number will do."""

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        n = len(cohort)
        factors = np.zeros(n)  # v = Σ factors_k x_k
        for _ in range(self._iterations):
            kept = self._radius / np.maximum(cohort.distances_to(factors), self._radius) / n  # min(1, τ/‖x_k − v‖) / n
            factors = factors * (1 - kept.sum()) + kept
        return weighted_sum(cohort, factors)
