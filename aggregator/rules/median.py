"""Rules by coordinate: the median and the trimmed mean. They bound what any minority can do to each parameter.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates" (ICML 2018,
arXiv 1803.01498), Definitions 1 and 2. Choose the trimmed mean when f is known: it uses n − 2f values of each
coordinate where the median uses one or two. Both learn worse than the mean where devices' data differ: what only a few
devices know is an outlier to them. Memory: a block of columns.
"""

import numpy as np

from aggregator.rules.cohort import Cohort, too_few
from aggregator.rules.rule import Delta

__all__ = ["Median", "TrimmedMean"]


class Median:
    """The median of each coordinate; of an even number, the mean of the middle two."""

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: any number will do."""

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        found = np.empty(cohort.n_params)
        low, high = (len(cohort) - 1) // 2, len(cohort) // 2
        for start, block in cohort.blocks():
            block.partition((low, high), axis=0)
            middle = block[low].astype(np.float64)
            middle += block[high]
            middle /= 2
            found[start : start + block.shape[1]] = middle
        return found


class TrimmedMean:
    """The mean of each coordinate without its f smallest and f largest values.

    Args:
        byzantine: f, updates that may be anything.
    """

    def __init__(self, byzantine: int) -> None:
        self._f = byzantine

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: n > 2f."""
        too_few("trimmed-mean", n_updates, self._f, least=2 * self._f + 1, theorem="n > 2f")

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        found, n, f = np.empty(cohort.n_params), len(cohort), self._f
        for start, block in cohort.blocks():
            if f:
                block.partition((f, n - f - 1), axis=0)
            found[start : start + block.shape[1]] = block[f : n - f].mean(axis=0, dtype=np.float64)
        return found
