"""Nearest-neighbour mixing: each update is averaged with those closest to it before a rule sees it.

Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, "Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity" (AISTATS 2023, arXiv 2302.01772), Algorithm 2: y_i is the mean of the n − f updates closest to x_i,
itself among them; then the rule takes y_1, …, y_n. Choose it around the median, the trimmed mean or Krum where devices'
data differ: what an honest minority knows has by then gone into its neighbours' rows. n > 2f.

Mixing is linear: the Gram matrix of the mixed rows comes from that of the updates, and a block of columns is mixed as
it is read. Memory: the Gram matrix, the (n, n) mixing, a block of columns.
"""

import numpy as np

from aggregator.rules.cohort import Cohort, CohortRule, too_few
from aggregator.rules.rule import Delta

__all__ = ["NearestNeighbourMixing"]


class NearestNeighbourMixing:
    """A rule over mixed updates.

    Args:
        rule: that takes them.
        byzantine: f, updates that may be anything.
    """

    def __init__(self, rule: CohortRule, byzantine: int) -> None:
        self._rule, self._f = rule, byzantine

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: n > 2f, and what the rule itself asks for."""
        too_few("nearest-neighbour mixing", n_updates, self._f, least=2 * self._f + 1, theorem="n > 2f")
        self._rule.check(n_updates)

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        n = len(cohort)
        order = np.argsort(cohort.squared_distances, axis=1, kind="stable")[:, : n - self._f]
        mixing = np.zeros((n, n))
        np.put_along_axis(mixing, order, 1 / (n - self._f), axis=1)
        return self._rule.combine(cohort.mixed(mixing))
