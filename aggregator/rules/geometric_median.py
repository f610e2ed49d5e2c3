"""The geometric median, as RFA computes it: the point whose distances to all updates sum to the least.

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning" (IEEE Trans. Signal Process. 2022, arXiv
1912.13445), Algorithm 2, the smoothed Weiszfeld iteration: v ← Σ β_k x_k / Σ β_k with β_k = α_k / max(ν, ‖v − x_k‖)
and α_k the weight of update k. Any n will do; it withstands less than half of the weight. Choose it when devices weigh
differently, or when the number f that may lie is not known: nothing is to be set.

Differs: the paper starts from v = Σ α_k x_k and stops after three iterations, for each costs a round of secure
aggregation. From there one update of 1e30 is not left behind in any number of iterations that one would wait for. Ours
starts from the mean of that half of the weight which is closest to the medoid, measures ν by the same half, and goes on
until nothing moves. Where both have converged they are equal.

The iteration crawls where updates lie nearly on a line, or the median upon one of them. So every two steps are
extrapolated: Varadhan and Roland, "Simple and Globally Convergent Methods for Accelerating the Convergence of Any EM
Algorithm" (Scand. J. Statist. 2008), scheme SqS3, Eq. 8; where that has made the sum of distances larger, it goes on
from the two plain steps.

Every v is a mean of the updates, so all of it happens on the Gram matrix, and the updates are read twice however many
iterations there are. Memory: the Gram matrix, and a block of columns.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.cohort import Cohort, weighted_sum
from aggregator.rules.rule import Delta

__all__ = ["GeometricMedian"]

Factors: TypeAlias = NDArray[np.float64]
"""(n,), one for each update."""

ITERATIONS = 2000
"""At most; each costs an (n, n) product. It ends as soon as no factor moves by `SETTLED`, mostly after 10 to 100."""
SETTLED = 1e-13
SMOOTHING = 1e-6
"""ν, as a share of the distance within which half of the weight lies: an update that v falls upon weighs no more."""


class GeometricMedian:
    """Weiszfeld's iteration, smoothed.

    Args:
        iterations: at most so many.
    """

    def __init__(self, iterations: int = ITERATIONS) -> None:
        self._iterations = iterations

    def check(self, n_updates: int) -> None:
        """See `CohortRule`: any number will do."""

    def combine(self, cohort: Cohort) -> Delta:
        """See `CohortRule`."""
        alpha = cohort.weights / cohort.weights.sum()
        between = np.sqrt(cohort.squared_distances)
        from_medoid = between[int(np.argmin(between @ alpha))]
        is_near = _nearer_half(from_medoid, alpha)
        factors = alpha * is_near / alpha[is_near].sum()
        smoothing = SMOOTHING * float(from_medoid[is_near].max())
        if smoothing:  # 0: half of the weight is one and the same update
            factors = self._settled(factors, lambda v: np.maximum(smoothing, cohort.distances_to(v)), alpha)
        return weighted_sum(cohort, factors)

    def _settled(self, factors: Factors, distances: Callable[[Factors], Factors], alpha: Factors) -> Factors:
        """Return the factors at which the iteration stands still.

        Args:
            factors: to begin with; Σ = 1.
            distances: from v = Σ factors_k x_k to each update, at least ν.
            alpha: of each update; Σ = 1.
        """

        def step(at: Factors) -> tuple[Factors, float]:
            """Return the next factors, and the sum of the distances at these."""
            far = distances(at)
            beta = alpha / far
            return beta / beta.sum(), float(alpha @ far)

        plain, least = factors, np.inf
        for _ in range(self._iterations // 2):
            first, cost = step(factors)
            if cost > least:
                factors, least = plain, np.inf
                continue
            least = cost
            moved = first - factors
            if np.abs(moved).max() < SETTLED:
                return first
            plain, _ = step(first)
            turned = plain - first - moved
            length = max(1.0, float(np.linalg.norm(moved) / (np.linalg.norm(turned) or np.inf)))
            factors = factors + 2 * length * moved + length**2 * turned  # length 1: the two plain steps
        return plain


def _nearer_half(distances: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the updates that are closest, until they have more than half of the weight: (n,) bool."""
    order = np.argsort(distances, kind="stable")
    is_near = np.zeros(len(alpha), dtype=np.bool_)
    is_near[order[: int(np.searchsorted(np.cumsum(alpha[order]), 0.5 + 1e-12)) + 1]] = True
    return is_near
