"""Krum, multi-Krum and Bulyan against their definitions, written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.rules.cohort import Cohort
from aggregator.rules.krum import Bulyan, Krum
from shared.errors import ConfigError
from tests.aggregator.rules.cohorts import InMemory, combined, honest


def scores(updates: NDArray[np.floating], f: int) -> list[float]:
    """Return Krum's scores, by the definition."""
    n = len(updates)
    found = []
    for i in range(n):
        distances = sorted(
            float(((updates[i].astype(np.float64) - updates[j].astype(np.float64)) ** 2).sum())
            for j in range(n)
            if j != i
        )
        found.append(sum(distances[: max(1, n - f - 2)]))
    return found


@given(f=st.integers(0, 3), more=st.integers(0, 4), seed=st.integers(0, 99))
def test_krum_is_the_update_with_the_smallest_score(f: int, more: int, seed: int) -> None:
    """And one of the updates as it is."""
    updates = honest(2 * f + 3 + more, 10, seed)
    wanted = updates[int(np.argmin(scores(updates, f)))]
    assert combined(Krum(f, is_multi=False), updates) == pytest.approx(wanted, abs=1e-12)


@given(f=st.integers(0, 3), more=st.integers(0, 4), seed=st.integers(0, 99))
def test_multi_krum_is_the_mean_of_the_best(f: int, more: int, seed: int) -> None:
    """Of n − f of them; with f = 0 of all."""
    n = 2 * f + 3 + more
    updates = honest(n, 10, seed)
    best = np.argsort(scores(updates, f), kind="stable")[: n - f]
    assert combined(Krum(f, is_multi=True), updates) == pytest.approx(
        updates[best].mean(axis=0, dtype=np.float64), abs=1e-6
    )


@settings(deadline=None)
@given(f=st.integers(0, 2), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_bulyan_is_the_mean_around_the_median_of_those_that_krum_picks(f: int, more: int, seed: int) -> None:
    """Of every choice of n − 4f values of a coordinate, those closest to the median."""
    n = 4 * f + 3 + more
    updates = honest(n, 6, seed).astype(np.float64)
    left = list(range(n))
    chosen = []
    for _ in range(n - 2 * f):
        best = int(np.argmin(scores(updates[left], f))) if len(left) > 1 else 0
        chosen.append(left.pop(best))
    picked = updates[chosen]
    found = combined(Bulyan(f), updates)
    for column, value in zip(picked.T, found, strict=True):
        median = float(np.median(column))
        closest = sorted(column, key=lambda x: abs(x - median))[: n - 4 * f]
        assert value == pytest.approx(np.mean(closest), abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "n"),
    [(Krum(2, is_multi=False), 6), (Krum(2, is_multi=True), 6), (Bulyan(2), 10)],
    ids=["krum", "multi-krum", "bulyan"],
)
def test_too_few_for_the_theorem_are_refused(rule: Krum | Bulyan, n: int) -> None:
    """N >= 2f + 3, n >= 4f + 3; one more will do."""
    with pytest.raises(ConfigError, match=f"asks for {n + 1}"):
        combined(rule, honest(n, 3))
    combined(rule, honest(n + 1, 3))


@pytest.mark.parametrize("f", [1, 2])
def test_liars_far_away_are_never_chosen(f: int) -> None:
    """Wherever they stand in the cohort, and though they agree with each other."""
    n = 4 * f + 3
    for liars in itertools.combinations(range(n), f):
        updates = honest(n, 50)
        good = np.delete(updates, liars, axis=0).astype(np.float64)
        updates[list(liars)] = 1e6
        for rule in (Krum(f, is_multi=False), Krum(f, is_multi=True), Bulyan(f)):
            assert np.abs(combined(rule, updates)).max() <= np.abs(good).max() + 1e-6


@pytest.mark.parametrize("size", [1e6, 1e16, 1e30])
def test_liars_of_any_size_take_no_digits_from_the_honest(size: float) -> None:
    """Two that agree are picked at last, where one alone is closest; the mean around the median is the honest ones'."""
    updates = honest(11, 50).astype(np.float64)
    updates[9:] = -size
    found = combined(Bulyan(2), updates)
    assert found == pytest.approx(combined(Bulyan(2), np.where(updates < -100, -1e3, updates)), abs=1e-6)


def test_running_statistics_do_not_say_who_lies() -> None:
    """Distances are taken over trainable parameters: a buffer in large units hides no liar among the honest."""
    rng = np.random.default_rng(4)
    updates = rng.standard_normal((9, 20)).astype(np.float32)
    updates[:, 10:] *= 1000
    updates[:2] = 500.0
    updates[:2, 10:] = 0.0
    cohort = Cohort(InMemory(list(updates)), 20, np.ones(9), np.arange(20) < 10)
    assert np.abs(Krum(2, is_multi=True).combine(cohort)[:10]).max() < 5
    all_counted = Cohort(InMemory(list(updates)), 20, np.ones(9))
    assert np.abs(Krum(2, is_multi=True).combine(all_counted)[:10]).max() > 50
