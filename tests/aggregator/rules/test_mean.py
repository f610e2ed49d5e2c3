"""The weighted mean, by its properties and by numbers worked by hand."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.rules import BLOCK_PARAMS, Blocks, Delta, Mean, weight_of
from shared.errors import InvalidState

VALUES = st.floats(-1e6, 1e6, width=32)
WEIGHTS = st.integers(1, 10**6)


def in_blocks(delta: NDArray[np.float32], at: int = BLOCK_PARAMS) -> Blocks:
    """Cut a delta as folding does."""
    return ((i, delta[i : i + at]) for i in range(0, len(delta), at))


def mean_of(updates: list[tuple[NDArray[np.float32], float]]) -> Delta:
    """Fold every (delta, weight) and finish."""
    rule = Mean()
    state = rule.init(len(updates[0][0]))
    for delta, weight in updates:
        rule.accumulate(state, in_blocks(delta), weight)
    return rule.finalize(state)


def a_cohort() -> st.SearchStrategy[list[tuple[NDArray[np.float32], float]]]:
    """One to eight updates of three parameters, with whole weights."""
    delta = st.lists(VALUES, min_size=3, max_size=3).map(lambda v: np.array(v, dtype=np.float32))
    return st.lists(st.tuples(delta, WEIGHTS.map(float)), min_size=1, max_size=8)


def test_mean_of_ten_equal_devices_is_the_number_worked_by_hand() -> None:
    """Ten devices of 1000 examples, rate 0.01, gradients 1 … 10: delta_k = −0.01 k, mean −0.01 · 5.5 = −0.055."""
    updates = [(np.array([-0.01 * k], dtype=np.float32), 1000.0) for k in range(1, 11)]
    assert mean_of(updates)[0] == pytest.approx(-0.055, rel=1e-7)


def test_mean_of_unequal_devices_is_the_number_worked_by_hand() -> None:
    """1000, 3000 and 6000 examples with deltas 0.1, −0.2, 0.3: 0.1·0.1 − 0.3·0.2 + 0.6·0.3 = 0.13; uniform: 0.0667."""
    deltas = [np.array([value], dtype=np.float32) for value in (0.1, -0.2, 0.3)]
    counts = (1000, 3000, 6000)
    by_examples = mean_of([(d, weight_of("examples", n)) for d, n in zip(deltas, counts, strict=True)])
    uniform = mean_of([(d, weight_of("uniform", n)) for d, n in zip(deltas, counts, strict=True)])
    assert by_examples[0] == pytest.approx(0.13, rel=1e-6)
    assert uniform[0] == pytest.approx(0.2 / 3, rel=1e-6)


@given(a_cohort(), st.randoms(use_true_random=False))
def test_mean_permuted_is_the_same_up_to_rounding(cohort: list[tuple[NDArray[np.float32], float]], rng: Random) -> None:
    """The order of arrival decides no more than the last bits."""
    shuffled = list(cohort)
    rng.shuffle(shuffled)
    np.testing.assert_allclose(mean_of(shuffled), mean_of(cohort), rtol=1e-9, atol=1e-8)


@given(a_cohort(), st.integers(1, 1000))
def test_mean_with_all_weights_scaled_is_the_same(cohort: list[tuple[NDArray[np.float32], float]], by: int) -> None:
    """Only the share of a weight counts."""
    scaled = [(delta, weight * by) for delta, weight in cohort]
    np.testing.assert_allclose(mean_of(scaled), mean_of(cohort), rtol=1e-9, atol=1e-8)


@given(st.lists(VALUES, min_size=1, max_size=5), st.lists(WEIGHTS, min_size=1, max_size=8))
def test_mean_of_equals_is_each_of_them(values: list[float], weights: list[int]) -> None:
    """Whatever their weights, equal updates give themselves."""
    delta = np.array(values, dtype=np.float32)
    np.testing.assert_allclose(mean_of([(delta, float(w)) for w in weights]), delta, rtol=1e-12)


@given(st.integers(1, 300), st.integers(1, 100))
def test_mean_told_in_any_blocks_is_the_same_to_the_bit(n_params: int, at: int) -> None:
    """How an update is cut changes nothing."""
    rng = np.random.default_rng(n_params)
    updates = [rng.standard_normal(n_params, dtype=np.float32) for _ in range(3)]
    rule = Mean()
    whole, cut = rule.init(n_params), rule.init(n_params)
    for k, update in enumerate(updates, start=1):
        rule.accumulate(whole, in_blocks(update), k)
        rule.accumulate(cut, in_blocks(update, at), k)
    assert rule.finalize(whole).tobytes() == rule.finalize(cut).tobytes()


def test_scale_shrinks_the_update_but_not_its_weight() -> None:
    """A clipped update still counts fully: (2·0.5·4 + 2·1) / 4 = 1.5."""
    rule = Mean()
    state = rule.init(1)
    rule.accumulate(state, in_blocks(np.array([4], dtype=np.float32)), 2.0, scale=0.5)
    rule.accumulate(state, in_blocks(np.array([1], dtype=np.float32)), 2.0)
    assert rule.finalize(state)[0] == 1.5


def test_accumulate_leaves_the_update_as_it_was() -> None:
    """A rule never changes its caller's arrays."""
    delta = np.arange(5, dtype=np.float32)
    mean_of([(delta, 3.0)])
    assert delta.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weight_that_is_not_positive_and_finite_is_refused(weight: float) -> None:
    """A weight out of range never reaches the sum."""
    rule = Mean()
    state = rule.init(1)
    with pytest.raises(InvalidState):
        rule.accumulate(state, in_blocks(np.ones(1, dtype=np.float32)), weight)
    assert state.total[0] == 0


@pytest.mark.parametrize("n_params", [0, 2, 4])
def test_update_of_another_length_is_refused(n_params: int) -> None:
    """Blocks that are not the whole vector are a mistake of ours, loudly."""
    rule = Mean()
    with pytest.raises(InvalidState):
        rule.accumulate(rule.init(3), in_blocks(np.ones(n_params, dtype=np.float32)), 1.0)


def test_finalize_without_updates_is_refused() -> None:
    """There is no mean of nothing."""
    rule = Mean()
    with pytest.raises(InvalidState):
        rule.finalize(rule.init(3))


def by_steps(*updates: tuple[list[float], float, int], is_trainable: list[bool]) -> list[float]:
    """Return FedNova's mean of (delta, weight, steps)."""
    rule = Mean(np.array(is_trainable))
    state = rule.init(len(is_trainable))
    for delta, weight, n_steps in updates:
        rule.accumulate(state, in_blocks(np.array(delta, dtype=np.float32)), weight, n_steps=n_steps)
    return list(map(float, rule.finalize(state)))


def test_mean_by_steps_worked_by_hand() -> None:
    """Weights 1 and 3, steps 2 and 10: (2/4 + 30/4) x (1/4 x 4/2 + 3/4 x 20/10) = 8 x 2 = 16; the buffer is 16."""
    assert by_steps(([4.0, 4.0], 1.0, 2), ([20.0, 20.0], 3.0, 10), is_trainable=[True, False]) == [16.0, 16.0]
    assert by_steps(([4.0, 4.0], 1.0, 4), ([20.0, 20.0], 3.0, 10), is_trainable=[True, False]) == [
        pytest.approx(8.5 * (0.25 * 1.0 + 0.75 * 2.0)),
        16.0,
    ]


@given(steps=st.integers(0, 1000), seed=st.integers(0, 2**32 - 1))
def test_mean_by_equal_steps_is_the_plain_mean(steps: int, seed: int) -> None:
    """Nothing is to be normalised; 0 steps count as one."""
    rng = np.random.default_rng(seed)
    updates = [(rng.normal(size=3).tolist(), float(weight), steps) for weight in rng.integers(1, 9, size=4)]
    plain = np.average([delta for delta, _, _ in updates], axis=0, weights=[weight for _, weight, _ in updates])
    assert by_steps(*updates, is_trainable=[True] * 3) == pytest.approx(plain.tolist(), rel=1e-5, abs=1e-6)


def test_device_that_takes_more_steps_does_not_pull_more() -> None:
    """Two devices pull with the same step in opposite directions, one of them ten times: in balance, as they should."""
    assert by_steps(([1.0], 1.0, 1), ([-10.0], 1.0, 10), is_trainable=[True]) == [0.0]
