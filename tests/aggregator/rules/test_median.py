"""The rules by coordinate: what they are, what they bound, and the cohorts that they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rules.cohort import Cohort
from aggregator.rules.median import Median, TrimmedMean
from shared.errors import ConfigError
from tests.aggregator.rules.cohorts import InMemory, combined, honest


@pytest.mark.parametrize("n", [1, 2, 3, 8, 21])
def test_median_is_the_median_of_each_coordinate(n: int) -> None:
    """Of an even number it is the mean of the middle two, as NumPy has it."""
    updates = honest(n, 500)
    assert combined(Median(), updates) == pytest.approx(np.median(updates.astype(np.float64), axis=0), abs=1e-12)


@given(n=st.integers(3, 12), f=st.integers(0, 5), seed=st.integers(0, 99))
def test_trimmed_mean_leaves_out_the_ends_of_each_coordinate(n: int, f: int, seed: int) -> None:
    """What is left is averaged; f = 0 is the plain mean."""
    f = min(f, (n - 1) // 2)
    updates = honest(n, 20, seed)
    wanted = np.sort(updates, axis=0)[f : n - f].mean(axis=0, dtype=np.float64)
    assert combined(TrimmedMean(f), updates) == pytest.approx(wanted, abs=1e-12)


@given(f=st.integers(1, 4), huge=st.sampled_from([1e30, -1e30, 5.0]), seed=st.integers(0, 99))
def test_a_minority_cannot_leave_the_range_of_the_honest(f: int, huge: float, seed: int) -> None:
    """Whatever f of 2f + 1 send, each coordinate stays between the honest ones' least and greatest."""
    updates = honest(2 * f + 1, 30, seed)
    good = updates[f:].astype(np.float64)
    updates[:f] = huge
    for rule in (Median(), TrimmedMean(f)):
        found = combined(rule, updates)
        assert (found >= good.min(axis=0) - 1e-6).all()
        assert (found <= good.max(axis=0) + 1e-6).all()


def test_columns_are_read_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of many blocks has no seams."""
    updates = honest(5, 1000)
    whole = combined(Median(), updates)
    monkeypatch.setattr("aggregator.rules.cohort.COLUMN_BYTES", 5 * 8 * 300)
    widths = [block.shape[1] for _, block in Cohort(InMemory(list(updates)), 1000, np.ones(5)).blocks()]
    assert widths == [300, 300, 300, 100]
    assert (combined(Median(), updates) == whole).all()


def test_trimmed_mean_refuses_half_of_the_cohort() -> None:
    """N > 2f, and the message says what to change."""
    with pytest.raises(ConfigError, match="n > 2f asks for 5") as caught:
        combined(TrimmedMean(2), honest(4, 3))
    assert "server.rule.byzantine" in str(caught.value)
