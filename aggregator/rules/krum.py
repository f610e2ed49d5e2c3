"""Krum, multi-Krum and Bulyan: the updates that lie closest to their neighbours.

Krum: Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent"
(NeurIPS 2017), §4: the score of update i is the sum of ‖x_i − x_j‖² over the n − f − 2 updates closest to it, and the
update with the smallest score is the aggregate; n >= 2f + 3. Multi-Krum (§5 there) is the mean of the m updates with
the smallest scores. Bulyan: El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
Byzantium" (ICML 2018, arXiv 1802.07927), §4: Krum picks n − 2f updates one after the other, each time among those that
are left; then each coordinate is the mean of the n − 4f values closest to its median among them; n >= 4f + 3.

Choose multi-Krum when devices' data are alike; one update alone (Krum) throws most of a cohort's work away. Bulyan adds
what Krum lacks, that a single coordinate of a chosen update may be anything, and needs the most devices. All of them
take an honest device with unusual data for a liar. Memory: the Gram matrix, and a block of columns. Of equal scores the
earlier update counts.
"""

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.cohort import Cohort, too_few, weighted_sum
from aggregator.rules.rule import Delta

__all__ = ["Bulyan", "Krum", "krum_scores"]


class Krum:
    """The update with the smallest score, or the mean of those with the m smallest.

    Args:
        byzantine: f, updates that may be anything.
        is_multi: the mean of m = n − f of them, which is all that can be honest for certain; else of one.
    """

    def __init__(self, byzantine: int, *, is_multi: bool) -> None:
        self._f, self._is_multi = byzantine, is_multi

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: n >= 2f + 3."""
        name = "multi-krum" if self._is_multi else "krum"
        too_few(name, n_updates, self._f, least=2 * self._f + 3, theorem="n >= 2f + 3")

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        n_chosen = len(cohort) - self._f if self._is_multi else 1
        scores = krum_scores(cohort.squared_distances, self._f)
        factors = np.zeros(len(cohort))
        factors[np.argsort(scores, kind="stable")[:n_chosen]] = 1 / n_chosen
        return weighted_sum(cohort, factors)


class Bulyan:
    """Krum's choice, then the values closest to the median of each coordinate.

    Args:
        byzantine: f, updates that may be anything.
    """

    def __init__(self, byzantine: int) -> None:
        self._f = byzantine

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: n >= 4f + 3."""
        too_few("bulyan", n_updates, self._f, least=4 * self._f + 3, theorem="n >= 4f + 3")

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        n_chosen = len(cohort) - 2 * self._f
        chosen = self._chosen(cohort.squared_distances, n_chosen)
        found = np.empty(cohort.n_params)
        for start, block in cohort.blocks():
            found[start : start + block.shape[1]] = _mean_around_median(block[chosen], n_chosen - 2 * self._f)
        return found

    def _chosen(self, distances: NDArray[np.float64], n_chosen: int) -> list[int]:
        left, chosen = list(range(len(distances))), []
        for _ in range(n_chosen):
            best = int(np.argmin(krum_scores(distances[np.ix_(left, left)], self._f)))
            chosen.append(left.pop(best))
        return chosen


def krum_scores(squared_distances: NDArray[np.float64], f: int) -> NDArray[np.float64]:
    """Return each update's score: the sum over its n − f − 2 closest others, of one at least.

    Args:
        squared_distances: (n, n).
        f: updates that may be anything.

    Returns:
        (n,) float64.
    """
    n = len(squared_distances)
    n_close = min(max(1, n - f - 2), n - 1)  # Bulyan goes on where fewer than f + 3 are left
    ordered = np.sort(squared_distances, axis=1)  # the first is the update itself, at 0
    found: NDArray[np.float64] = ordered[:, 1 : n_close + 1].sum(axis=1)
    return found


def _mean_around_median(values: NDArray[np.floating], n_close: int) -> NDArray[np.float64]:
    """Return the mean of the values closest to the median of each column: (width,) float64.

    Args:
        values: (n, width).
        n_close: values that count, in 1..n. Sorted, they stand side by side.
    """
    ordered = np.sort(values, axis=0)
    n = len(ordered)
    median = (ordered[(n - 1) // 2].astype(np.float64) + ordered[n // 2]) / 2
    first = np.zeros(ordered.shape[1], dtype=np.intp)
    reach = np.full(ordered.shape[1], np.inf)
    for start in range(n - n_close + 1):  # the window whose farther end is closest to the median
        here = np.maximum(median - ordered[start], ordered[start + n_close - 1] - median)
        is_closer = here < reach
        first[is_closer], reach[is_closer] = start, here[is_closer]
    columns, total = np.arange(ordered.shape[1]), np.zeros(ordered.shape[1])
    for place in range(n_close):  # what lies outside the window enters no sum: one value of 1e30 would swallow the rest
        total += ordered[first + place, columns] - median
    found: NDArray[np.float64] = median + total / n_close
    return found
