"""Adagrad, Adam and Yogi: by hand, against the paper's lines in plain float64, and by what tells them apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.server_optimizers import Adagrad, Adam, OptimizerState, ServerOptimizer, Yogi, advance
from shared.parameters import ParameterSpec
from shared.task import Initial

N = 5
SPEC = ParameterSpec.of(Initial({"w": np.zeros(N, np.float32)}))
F64 = NDArray[np.float64]
LINES: dict[str, tuple[Callable[..., ServerOptimizer], Callable[[F64, F64, float], F64]]] = {
    "adagrad": (Adagrad, lambda v, delta, beta_2: v + delta**2),
    "adam": (Adam, lambda v, delta, beta_2: beta_2 * v + (1 - beta_2) * delta**2),
    "yogi": (Yogi, lambda v, delta, beta_2: v - (1 - beta_2) * delta**2 * np.sign(v - delta**2)),
}
"""Each optimizer, and the line of Algorithm 2 for v."""


def walk(optimizer: ServerOptimizer, deltas: F64, rate: float) -> tuple[F64, OptimizerState]:
    """Return the models, (n_versions, N), and the state behind the last."""
    model, found = np.zeros(N, np.float32), []
    saved: OptimizerState = {}
    for delta in deltas:
        model, saved = advance("x", optimizer, saved, model, delta, SPEC, rate)
        found.append(model.astype(np.float64))
    return np.array(found), saved


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("beta_1", [0.0, 0.9])
@pytest.mark.parametrize("tau", [1e-3, 1e-1])
def test_walk_is_the_papers_algorithm(name: str, beta_1: float, tau: float) -> None:
    """Fifty versions of deltas between 1e-5 and 10, written down once more in float64 throughout: within 1e-6."""
    make, line = LINES[name]
    numbers: dict[str, Any] = {"beta_1": beta_1, "tau": tau} | ({} if name == "adagrad" else {"beta_2": 0.95})
    rng = np.random.default_rng(3)
    deltas = rng.normal(size=(50, N)) * 10.0 ** rng.integers(-5, 2, size=N)
    m, v, w, expected = np.zeros(N), np.full(N, tau**2), np.zeros(N), []
    for delta in deltas:
        m = beta_1 * m + (1 - beta_1) * delta
        v = line(v, delta, 0.95)
        w = w + 0.1 * m / (np.sqrt(v) + tau)
        expected.append(w)
    found, saved = walk(make(**numbers), deltas, 0.1)
    assert found == pytest.approx(np.array(expected), rel=1e-6, abs=1e-6)
    assert saved["step/x/m"] == pytest.approx(m, rel=1e-6)
    assert saved["step/x/v"] == pytest.approx(v, rel=1e-5)


def test_first_step_by_hand_without_correction_of_bias() -> None:
    """Δ = 3, τ = 1, η = 1. Adam: m = 0.3, v = 0.99 + 0.09 = 1.08; Yogi: 1 + 0.09; Adagrad: m = 3, v = 1 + 9."""
    delta = np.full((1, N), 3.0)
    adam, _ = walk(Adam(tau=1.0), delta, 1.0)
    yogi, _ = walk(Yogi(tau=1.0), delta, 1.0)
    adagrad, _ = walk(Adagrad(tau=1.0), delta, 1.0)
    assert adam[0, 0] == pytest.approx(0.3 / (1.08**0.5 + 1))
    assert yogi[0, 0] == pytest.approx(0.3 / (1.09**0.5 + 1))
    assert adagrad[0, 0] == pytest.approx(3 / (10**0.5 + 1))


@pytest.mark.parametrize("name", LINES)
def test_parameters_whose_deltas_differ_by_thousands_move_alike(name: str) -> None:
    """That is what they are for: well above τ the size of a delta does not count, only its sign."""
    deltas = np.tile([1.0, 10.0, 100.0, 1000.0, -1000.0], (400, 1))
    found, _ = walk(LINES[name][0](tau=1e-6), deltas, 0.01)
    assert np.abs(found[-1]) == pytest.approx(np.full(N, abs(found[-1, 0])), rel=0.01)
    assert found[-1, 4] < 0 < found[-1, 0]


@pytest.mark.parametrize("name", LINES)
def test_with_a_large_tau_it_is_momentum_in_proportion(name: str) -> None:
    """Deltas far below τ: without m's memory each version moves by η Δ / 2τ, as √v is τ at first."""
    deltas = np.tile([1e-3, 2e-3, 3e-3, 4e-3, -5e-3], (3, 1))
    found, _ = walk(LINES[name][0](beta_1=0.0, tau=100.0), deltas, 1.0)
    assert found[-1] == pytest.approx(3 * deltas[0] / 200, rel=0.01)


def test_yogi_forgets_a_large_delta_more_slowly_than_adam() -> None:
    """After one delta of 1 and a hundred of 0.01, β₂ = 0.9: Adam's v has fallen to that of 0.01, Yogi's has hardly."""
    deltas = np.vstack([np.ones((1, N)), np.full((100, N), 0.01)])
    _, adam = walk(Adam(beta_2=0.9), deltas, 0.1)
    _, yogi = walk(Yogi(beta_2=0.9), deltas, 0.1)
    assert adam["step/x/v"][0] == pytest.approx(1e-4, rel=0.05)
    assert yogi["step/x/v"][0] == pytest.approx(0.1 - 100 * 0.1 * 1e-4, rel=0.01)


def test_adagrads_steps_only_shrink() -> None:
    """Equal deltas, √v grows as √t: each step is shorter than the one before, and Σ is about 2 η √t."""
    found, _ = walk(Adagrad(tau=1e-9), np.ones((400, N)), 0.1)
    steps = np.diff(found[:, 0], prepend=0.0)
    assert (np.diff(steps) < 0).all()
    assert found[-1, 0] == pytest.approx(2 * 0.1 * 400**0.5, rel=0.05)
