"""q-FedAvg: by hand, against the paper's lines, and by what it is for."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.rules import BLOCK_PARAMS, Blocks, Delta, Mean, QFedAvg
from shared.errors import InvalidState

Update = tuple[Sequence[float] | NDArray[np.float32], float]
"""A delta, and the loss it began with."""


def in_blocks(delta: NDArray[np.float32], at: int = BLOCK_PARAMS) -> Blocks:
    """Cut a delta as folding does."""
    return ((i, delta[i : i + at]) for i in range(0, len(delta), at))


def fair(
    updates: Sequence[Update],
    q: float,
    *,
    rate: float = 0.1,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    is_trainable: Sequence[bool] | None = None,
    at: int = BLOCK_PARAMS,
) -> Delta:
    """Fold (delta, loss) and finish."""
    n = len(updates[0][0])
    rule = QFedAvg(q, np.ones(n, np.bool_) if is_trainable is None else np.array(is_trainable))
    state = rule.init(n)
    for (delta, loss), weight in zip(updates, weights or [1.0] * len(updates), strict=True):
        told = rule.told(loss=loss, learning_rate=rate)
        told.accumulate(state, in_blocks(np.asarray(delta, np.float32), at), weight, scale=scale)
    return rule.finalize(state)


def by_the_paper(updates: Sequence[Update], q: float, rate: float) -> NDArray[np.float64]:
    """Return w' − w by Algorithm 2, line by line, with w = 0."""
    deltas, hs = [], []
    for delta, loss in updates:
        gradient = (0 - np.asarray(delta, np.float64)) / rate  # L Δw
        deltas.append(loss**q * gradient)
        hs.append(q * loss ** (q - 1) * np.sum(gradient**2) + loss**q / rate)
    step: NDArray[np.float64] = -np.sum(deltas, axis=0) / np.sum(hs)
    return step


def test_qfedavg_by_hand() -> None:
    """Q = 1, L = 10, deltas 1 and −1, losses 2 and 1: Σ = 2·10 − 1·10 = 10, h = 100 + 20 and 100 + 10: 10/230."""
    assert fair([([1.0], 2.0), ([-1.0], 1.0)], 1.0)[0] == pytest.approx(10 / 230, rel=1e-9)


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_step_is_the_papers_algorithm(q: float) -> None:
    """Eight devices of other losses, in blocks of three: within the 1e-10 that is added to each loss."""
    rng = np.random.default_rng(2)
    updates = [(rng.normal(size=10).astype(np.float32), float(rng.uniform(0.1, 4.0))) for _ in range(8)]
    assert fair(updates, q, rate=0.05, at=3) == pytest.approx(by_the_paper(updates, q, 0.05), rel=1e-8)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1.0))
def test_q_zero_is_fedavg_with_uniform_weights(seed: int, rate: float) -> None:
    """Whatever the losses and the rate: the plain mean."""
    rng = np.random.default_rng(seed)
    updates = [(rng.normal(size=5).astype(np.float32), float(rng.uniform(0, 5))) for _ in range(4)]
    mean = Mean()
    state = mean.init(5)
    for delta, _ in updates:
        mean.accumulate(state, in_blocks(delta), 1.0)
    np.testing.assert_allclose(fair(updates, 0.0, rate=rate), mean.finalize(state), rtol=1e-12, atol=1e-15)


def test_the_larger_q_the_more_the_worst_off_pull() -> None:
    """Nine devices pull to the right, one whose loss is twice theirs to the left: it comes to decide the direction."""
    updates = [([0.01], 1.0)] * 9 + [([-0.01], 2.0)]
    steps = [fair(updates, q)[0] for q in (0.0, 1.0, 2.0, 3.0, 4.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 0 > steps[-1]


def test_the_worst_off_device_ends_better_off_the_larger_q() -> None:
    """Parabolas at 0, 0, 0 and 4: FedAvg ends at their mean, 1; q = 1 where Σ F² is least; larger q nearer to 2."""
    centres, found = np.array([0.0, 0.0, 0.0, 4.0]), []
    for q in (0.0, 1.0, 4.0):
        w = 1.5
        for _ in range(400):
            updates = [([float(0.2 * (c - w))], float((w - c) ** 2 / 2)) for c in centres]
            w += float(fair(updates, q, rate=0.2)[0])
        found.append(w)
    best = min(np.linspace(0, 4, 4001), key=lambda w: float(np.sum((w - centres) ** 4)))
    assert found[:2] == pytest.approx([1.0, best], abs=0.01)
    assert found[1] < found[2] < 2.0


def test_every_device_with_the_same_loss_pulls_alike() -> None:
    """The direction is that of the mean; the step is shorter, for h grows with q."""
    updates = [([1.0, 0.0], 0.7), ([0.0, 3.0], 0.7)]
    step, mean = fair(updates, 2.0), fair(updates, 0.0)
    assert step[1] / step[0] == pytest.approx(3.0)
    assert 0 < step[0] < mean[0]


def test_weights_are_the_p_k_of_the_objective() -> None:
    """A device of weight 2 is two devices."""
    one = fair([([1.0], 2.0), ([-1.0], 1.0)], 1.5, weights=[2.0, 1.0])
    two = fair([([1.0], 2.0), ([1.0], 2.0), ([-1.0], 1.0)], 1.5)
    assert one[0] == pytest.approx(two[0], rel=1e-12)


def test_buffers_take_the_mean_and_are_no_part_of_the_norm() -> None:
    """A running variance that moves by a thousand changes no step of the weights."""
    updates = [([1.0, 1000.0], 2.0), ([-1.0, 0.0], 1.0)]
    found = fair(updates, 1.0, is_trainable=[True, False])
    assert found == pytest.approx([10 / 230, 500.0], rel=1e-9)


def test_late_update_moves_the_model_less() -> None:
    """Damped to a half: half the step, for h stays."""
    whole = fair([([1.0], 2.0)], 2.0)
    assert fair([([1.0], 2.0)], 2.0, scale=0.5)[0] == pytest.approx(whole[0] / 2, rel=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("loss", [0.0, 1e-12, 1e9])
def test_bounds_of_the_loss_stay_finite(q: float, loss: float) -> None:
    """A device without any loss left, and the largest that is taken; with huge deltas, too."""
    assert np.isfinite(fair([([1e15], loss), ([1.0], 1.0)], q)).all()


@given(st.integers(1, 200), st.integers(1, 50))
def test_blocks_change_rounding_at_most(n_params: int, at: int) -> None:
    """How an update is cut."""
    rng = np.random.default_rng(n_params)
    updates = [(rng.standard_normal(n_params, dtype=np.float32), float(k)) for k in range(1, 4)]
    np.testing.assert_allclose(fair(updates, 1.0, at=at), fair(updates, 1.0), rtol=1e-12)


def test_what_is_no_update_is_refused() -> None:
    """A mistake of ours, loudly."""
    rule = QFedAvg(1.0, np.ones(3, np.bool_))
    with pytest.raises(InvalidState):
        rule.finalize(rule.init(3))
    with pytest.raises(InvalidState):
        rule.accumulate(rule.init(3), in_blocks(np.ones(2, np.float32)), 1.0)
    with pytest.raises(InvalidState):
        rule.accumulate(rule.init(3), in_blocks(np.ones(3, np.float32)), 0.0)
    with pytest.raises(InvalidState):
        rule.accumulate(Mean().init(3), in_blocks(np.ones(3, np.float32)), 1.0)
