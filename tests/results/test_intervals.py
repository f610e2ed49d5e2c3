import math

import numpy as np
import pytest
from scipy import stats

from results.intervals import interval_of, over_folds, over_seeds, over_splits, quantile, ratio_of


def test_interval_of_independent_values_is_students() -> None:
    """1, 2, 3, 4, 5: mean 3, s/√5 = 0.7071, t(0.975; 4) = 2.7764: 3 ± 1.9632."""
    found = interval_of([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3, 5)
    assert (found.low, found.high) == pytest.approx((1.0368, 4.9632), abs=1e-4)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 4, loc=3, scale=stats.sem([1, 2, 3, 4, 5])))


def test_interval_of_folds_is_wider_by_what_they_share() -> None:
    """1, 2, 3, 4, 5 in five folds: s √(1/5 + 1/4) = 1.0607, times 2.7764: 3 ± 2.9449."""
    found = over_folds({(seed, fold): fold + 1.0 for seed in range(3) for fold in range(5)}, n_folds=5)
    assert (found.low, found.high) == pytest.approx((0.0551, 5.9449), abs=1e-4)
    assert found.n == 5


def test_seeds_count_only_by_their_mean_in_each_fold() -> None:
    """More seeds of the same folds are no more data: the interval is that of the means."""
    noisy = {(seed, fold): fold + sign for seed, sign in ((1, -3.0), (2, 3.0)) for fold in range(4)}
    assert over_folds(noisy, n_folds=4) == over_folds({(1, fold): float(fold) for fold in range(4)}, n_folds=4)


def test_every_split_counts_where_seeds_divide_anew() -> None:
    """1 to 5 over five folds, twice: s = 1.4907, √(1/10 + 1/4) = 0.5916, t(0.975; 9) = 2.2622: 3 ± 1.9950."""
    found = over_splits({(seed, fold): fold + 1.0 for seed in (1, 2) for fold in range(5)}, n_folds=5)
    assert (found.mean, found.n) == (3, 10)
    assert (found.low, found.high) == pytest.approx((1.0050, 4.9950), abs=1e-4)


def test_seeds_with_data_of_their_own_are_independent() -> None:
    """Their means over folds, whatever the folds are among themselves: Student's interval of these."""
    values = {(seed, fold): seed + off for seed in range(1, 6) for fold, off in enumerate((-9.0, 0.0, 9.0))}
    assert over_seeds(values) == interval_of([1.0, 2.0, 3.0, 4.0, 5.0])


def test_interval_of_correlated_values_holds_its_level() -> None:
    """Where values correlate by n_test/(n_test + n_train), the corrected one keeps its 95 %, the plain one does not."""
    rng, share = np.random.default_rng(1), 0.2  # of five folds
    draws = np.sqrt(share) * rng.normal(size=(4000, 1)) + np.sqrt(1 - share) * rng.normal(size=(4000, 5))
    widths = {ratio: [interval_of(list(row), test_to_train=ratio) for row in draws] for ratio in (0.0, 0.25)}
    hit = {ratio: np.mean([each.low < 0 < each.high for each in found]) for ratio, found in widths.items()}
    assert hit[0.25] == pytest.approx(0.95, abs=0.015)
    assert hit[0.0] < 0.90


def test_interval_of_one_value_is_everything() -> None:
    """Nothing is known of how it varies."""
    found = interval_of([2.0])
    assert (found.mean, found.low, found.high, found.is_known) == (2.0, -math.inf, math.inf, False)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_interval_of_no_numbers_is_refused(values: list[float]) -> None:
    """A diverged run is to be counted as what it is, not averaged."""
    with pytest.raises(ValueError, match="finite"):
        interval_of(values)


def test_interval_is_shifted_and_scaled_with_its_values() -> None:
    """In points it is a hundred times what it is in shares."""
    values = [0.1, 0.4, -0.2]
    assert interval_of([100 * value for value in values]).low == pytest.approx(interval_of(values).scaled(100).low)


def test_ratio_is_geometric_and_turns_with_its_sides() -> None:
    """2, 8 against 1, 1: √16 = 4; the other way round everything is one over it."""
    found, turned = ratio_of([2, 8], [1, 1]), ratio_of([1, 1], [2, 8])
    assert found.mean == pytest.approx(4)
    assert [turned.mean, turned.low, turned.high] == pytest.approx([1 / found.mean, 1 / found.high, 1 / found.low])


def test_ratio_of_one_pair_has_no_interval() -> None:
    """It may be anything above 0."""
    found = ratio_of([3.0], [2.0])
    assert [found.mean, found.low, found.high] == pytest.approx([1.5, 0.0, math.inf])


def test_quantile_is_numpys() -> None:
    """Linear interpolation, as everybody has it."""
    values = [5.0, 1.0, 4.0, 2.0]
    for share in (0, 0.1, 0.5, 0.9, 1):
        assert quantile(values, share) == pytest.approx(np.quantile(values, share))
    assert quantile([7.0], 0.1) == 7.0
