"""The geometric median: no point is closer to the updates, and a minority moves it little."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.rules.geometric_median import GeometricMedian
from tests.aggregator.rules.cohorts import combined, honest


def test_no_point_nearby_is_closer_to_all() -> None:
    """The sum of distances grows in every direction tried, by random and by coordinate."""
    updates = honest(9, 5).astype(np.float64)
    found = combined(GeometricMedian(iterations=500), updates)
    rng = np.random.default_rng(2)
    least = np.linalg.norm(updates - found, axis=1).sum()
    for step in [*np.eye(5), *-np.eye(5), *rng.standard_normal((40, 5))]:
        for length in (1e-2, 1.0):
            assert np.linalg.norm(updates - found - length * step, axis=1).sum() >= least - 1e-9


def pull(updates: NDArray[np.float64], at: NDArray[np.float64]) -> float:
    """Return how hard updates of weight one pull at a point, each with its unit vector: 0 at the geometric median."""
    away = updates - at
    return float(np.linalg.norm((away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0)))


@pytest.mark.parametrize("noise", [0.3, 0.03, 0.01, 0.003])
def test_it_is_found_where_updates_lie_nearly_on_a_line(noise: float) -> None:
    """One direction, ten lengths: the plain iteration stops 0.1 of the spread away after 500 steps."""
    rng = np.random.default_rng(8)
    direction = rng.standard_normal(1000)
    direction /= np.linalg.norm(direction)
    updates = rng.uniform(0.5, 1.5, (10, 1)) * direction + noise * rng.standard_normal((10, 1000)) / 1000**0.5
    updates = updates.astype(np.float32).astype(np.float64)
    assert pull(updates, combined(GeometricMedian(), updates)) < 1e-6


def test_it_is_found_where_it_is_one_of_the_updates_or_nearly() -> None:
    """An update that weighs as much as the others pull is the median; one that weighs a little less lies beside it."""
    updates = honest(11, 40).astype(np.float64)
    away = updates[1:] - updates[0]
    others = np.linalg.norm((away / np.linalg.norm(away, axis=1, keepdims=True)).sum(axis=0))
    for share, least, most in [(1.001, 0.0, 1e-5), (1.0, 0.0, 1e-4), (0.999, 1e-3, 2e-3)]:
        found = combined(GeometricMedian(), updates, weights=[float(others) * share, *([1.0] * 10)])
        assert least <= np.linalg.norm(found - updates[0]) / np.linalg.norm(away, axis=1).mean() < most


def test_it_is_a_weighted_one() -> None:
    """An update that weighs more than all others together is the median itself."""
    updates = honest(5, 4)
    found = combined(GeometricMedian(iterations=500), updates, weights=[1, 1, 1, 1, 10])
    assert found == pytest.approx(updates[4], abs=1e-4)


def test_in_one_dimension_it_is_the_median() -> None:
    """Of an odd number."""
    updates = np.array([[0.0], [1.0], [2.5], [7.0], [1e6]])
    assert combined(GeometricMedian(iterations=2000), updates)[0] == pytest.approx(2.5, abs=1e-3)


def test_the_same_update_from_all_is_the_result() -> None:
    """Nothing is divided by nothing; zeros stay zeros."""
    for value in (0.0, 3.0):
        assert combined(GeometricMedian(), np.full((4, 3), value)) == pytest.approx(np.full(3, value))


@pytest.mark.parametrize("huge", [1e3, 1e30])
def test_a_minority_far_away_moves_it_no_farther_than_the_honest_spread(huge: float) -> None:
    """However far away they are."""
    updates = honest(11, 30)
    good = updates[4:].astype(np.float64)
    updates[:4] = huge
    distance = np.linalg.norm(combined(GeometricMedian(iterations=200), updates) - good.mean(axis=0))
    assert distance < 3 * np.linalg.norm(good - good.mean(axis=0), axis=1).max()


def test_of_two_it_is_a_point_between_them() -> None:
    """Whichever came first."""
    found = combined(GeometricMedian(), [[0.0, 0.0], [2.0, 4.0]])
    assert found == pytest.approx([1.0, 2.0], abs=1e-6)
