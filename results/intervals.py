"""95 % intervals of paired differences over seeds and folds.

Folds share most of their training data, so that their differences are not independent, and Student's interval over all
of them is too narrow. The corrected resampled t-test of Nadeau and Bengio, "Inference for the Generalization Error"
(Machine Learning 52, 2003), estimates the variance of the mean of J differences by (1/J + n_test/n_train) s² in place
of s²/J; Bouckaert and Frank (PAKDD 2004) use it for cross-validation. k folds have n_test/n_train = 1/(k − 1).

Seeds that go over the same folds repeat their test data altogether. `over_folds` therefore takes the mean over seeds
first, and only the folds count: J = k, with k − 1 degrees of freedom. Where each of r seeds divides the data anew, all
J = rk differences count (`over_splits`), which is Bouckaert and Frank's repeated cross-validation. Seeds of which each
has data of its own are independent: `over_seeds` takes the mean over folds first, and Student's interval over seeds.

Not here: what is compared (`cases/`), sentences and tables (`page.py`).
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

__all__ = ["Interval", "interval_of", "over_folds", "over_seeds", "over_splits", "quantile", "ratio_of"]

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean, and where it may lie.

    Args:
        mean: of the values; of `ratio_of` the geometric mean.
        low: lower end of the 95 % interval; -inf when there is but one value.
        high: upper end.
        n: values that count as such.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def is_known(self) -> bool:
        """Whether there were values enough for an interval."""
        return self.n > 1

    def scaled(self, factor: float) -> "Interval":
        """Return it in another unit; `factor` is above 0."""
        return Interval(mean=self.mean * factor, low=self.low * factor, high=self.high * factor, n=self.n)


def interval_of(values: Sequence[float], *, test_to_train: float = 0.0) -> Interval:
    """Return mean and interval of the mean.

    Args:
        values: paired differences, one a split of the data; or one a seed when nothing but the seed differs.
        test_to_train: n_test/n_train of the splits; 0: the values are independent, and this is Student's interval.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"an interval needs finite values, at least one: {list(values)}")
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf, n=1)
    deviation = statistics.stdev(values) * math.sqrt(1 / n + test_to_train)
    half = _t(n - 1) * deviation
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


@functools.cache
def _t(freedom: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, freedom))


def over_folds(values: Mapping[tuple[int, int], float], *, n_folds: int) -> Interval:
    """Return mean and interval of differences over seeds x folds: see above.

    Args:
        values: by (seed, fold); every fold has the same seeds.
        n_folds: into which the data were divided, >= 2, however many of them were computed.
    """
    folds = sorted({fold for _, fold in values})
    means = [statistics.fmean(value for (_, of), value in values.items() if of == fold) for fold in folds]
    return interval_of(means, test_to_train=1 / (n_folds - 1))


def over_splits(values: Mapping[tuple[int, int], float], *, n_folds: int) -> Interval:
    """Return mean and interval of differences over seeds x folds, each seed with folds of its own: see above.

    Args:
        values: by (seed, fold).
        n_folds: into which a seed divides the data, >= 2, however many of them were computed.
    """
    return interval_of(list(values.values()), test_to_train=1 / (n_folds - 1))


def over_seeds(values: Mapping[tuple[int, int], float]) -> Interval:
    """Return mean and interval of differences over seeds x folds, each seed with data of its own: see above.

    Args:
        values: by (seed, fold); every seed has the same folds.
    """
    seeds = sorted({seed for seed, _ in values})
    return interval_of([statistics.fmean(value for (of, _), value in values.items() if of == seed) for seed in seeds])


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Return the geometric mean of paired ratios, with the interval of its logarithm.

    Args:
        above: numerators, > 0.
        below: denominators, > 0, in the same order.
    """
    logs = [math.log(first / second) for first, second in zip(above, below, strict=True)]
    found = interval_of(logs)
    high = math.exp(found.high) if found.is_known else math.inf
    return Interval(mean=math.exp(found.mean), low=math.exp(found.low), high=high, n=found.n)


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile with linear interpolation between order statistics (Hyndman and Fan's type 7).

    Args:
        values: at least one.
        share: in [0, 1]; 0.5 is the median.
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
