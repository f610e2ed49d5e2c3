"""Centered clipping, against its definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rules.clipping import CenteredClipping
from tests.aggregator.rules.cohorts import combined, honest


@given(radius=st.floats(0.1, 20), iterations=st.integers(1, 6), seed=st.integers(0, 99))
def test_it_is_the_papers_iteration(radius: float, iterations: int, seed: int) -> None:
    """V ← v + mean of clipped differences, from 0."""
    updates = honest(7, 12, seed).astype(np.float64)
    v = np.zeros(12)
    for _ in range(iterations):
        differences = updates - v
        norms = np.linalg.norm(differences, axis=1, keepdims=True)
        v = v + (differences * np.minimum(1, radius / norms)).mean(axis=0)
    assert combined(CenteredClipping(radius, iterations), updates) == pytest.approx(v, abs=1e-9)


def test_within_the_radius_it_is_the_mean() -> None:
    """Whoever agrees is not clipped."""
    updates = honest(6, 8)
    wanted = updates.mean(axis=0, dtype=np.float64)
    assert combined(CenteredClipping(100.0, 1), updates) == pytest.approx(wanted, abs=1e-9)


def test_updates_of_zeros_are_no_special_case() -> None:
    """Nor a radius that is huge: whoever is at the centre counts in full, and nothing overflows."""
    for radius in (1e-300, 1.0, 1e300):
        assert combined(CenteredClipping(radius, 3), np.zeros((4, 8))) == pytest.approx(np.zeros(8))


def test_nobody_pulls_farther_than_the_radius() -> None:
    """One of n moves the result by at most L x tau / n from where it would be, whatever it sends."""
    updates = honest(10, 8)
    for huge in (1e3, 1e30):
        moved = updates.copy()
        moved[0] = huge
        plain, found = (combined(CenteredClipping(0.5, 2), each) for each in (updates, moved))
        assert np.linalg.norm(found - plain) <= 2 * 2 * 0.5 / 10 + 1e-6
