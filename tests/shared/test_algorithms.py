"""What devices add to their gradients, and what they keep."""

from typing import Any

import numpy as np
import pytest

from shared.algorithms import (
    ALGORITHMS,
    CONTROL_VARIATE,
    STATEFUL,
    DeviceAlgorithm,
    algorithm_named,
    effective_steps,
    extended,
)
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Initial

NOTHING = np.empty(0, np.float32)
N = 5


def of(name: str) -> DeviceAlgorithm:
    """An algorithm with numbers that are powers of two."""
    return algorithm_named(name, mu=0.5, alpha=0.25)


def vector(*values: float) -> Vector:
    """Those values."""
    return np.array(values, np.float32)


def test_plain_algorithms_leave_the_gradient_alone() -> None:
    """FedAvg and its kin keep nothing and send nothing more."""
    for name in ("fedavg", "fedsgd", "qfedavg"):
        algorithm = of(name)
        adjustment = algorithm.begin({}, NOTHING, N)
        assert (adjustment.correction, adjustment.mu) == (None, 0.0)
        assert not len(algorithm.auxiliary_change(vector(1), NOTHING, n_steps=1, learning_rate=1.0))
        assert algorithm.next_kept({}, vector(1), NOTHING) == {}


def test_fedprox_pulls_and_keeps_nothing() -> None:
    """Eq. 2: µ alone; with µ = 0 it is FedAvg."""
    adjustment = of("fedprox").begin({}, NOTHING, N)
    assert (adjustment.correction, adjustment.mu) == (None, 0.5)
    assert of("fedprox").next_kept({}, vector(1), NOTHING) == {}
    assert algorithm_named("fedprox", mu=0.0).begin({}, NOTHING, N) == of("fedavg").begin({}, NOTHING, N)


def test_scaffold_by_hand() -> None:
    """C = 3, c_i = 1: correction 2. After K = 2 steps of η = 0.5, Δy = -4: Δc = -3 + 4 / 1 = 1, and c_i = 2."""
    algorithm, kept = of("scaffold"), {"scaffold/c_i": vector(1)}
    correction = algorithm.begin(kept, vector(3), 1).correction
    assert correction is not None
    assert correction.tolist() == [2.0]
    change = algorithm.auxiliary_change(vector(-4), vector(3), n_steps=2, learning_rate=0.5)
    assert change.tolist() == [1.0]
    assert algorithm.next_kept(kept, vector(-4), change)["scaffold/c_i"].tolist() == [2.0]


def test_scaffold_keeps_the_mean_gradient_that_it_took() -> None:
    """Option II: whatever c and c_i were, c_i+ is (1/K) Σ g_i(y), the mean of the bare gradients of its steps."""
    rng = np.random.default_rng(0)
    c, c_i, gradients = (rng.normal(size=size).astype(np.float32) for size in (N, N, (7, N)))
    algorithm, kept, rate = of("scaffold"), {"scaffold/c_i": c_i}, 0.1
    correction = algorithm.begin(kept, c, N).correction
    assert correction is not None
    delta = -(rate * (gradients + correction)).sum(axis=0)
    change = algorithm.auxiliary_change(delta, c, n_steps=7, learning_rate=rate)
    np.testing.assert_allclose(algorithm.next_kept(kept, delta, change)["scaffold/c_i"], gradients.mean(0), atol=1e-6)


def test_scaffold_divides_by_rates_that_float32_has_not() -> None:
    """K η = 1e-50: a model that did not move has learned -c, one that moved what no float32 holds."""
    tiny: dict[str, Any] = {"n_steps": 1, "learning_rate": 1e-50}
    assert of("scaffold").auxiliary_change(vector(0), vector(3), **tiny).tolist() == [-3.0]
    assert of("scaffold").auxiliary_change(vector(1), vector(3), **tiny).tolist() == [-np.inf]


def test_scaffold_without_a_step_changes_nothing() -> None:
    """The time was up before the first batch: there is no gradient to learn from."""
    assert of("scaffold").auxiliary_change(vector(0), vector(3), n_steps=0, learning_rate=0.5).tolist() == [0.0]


def test_feddyn_by_hand() -> None:
    """G = 2: correction -2, pull α = 0.25; after Δ = -4, g = 2 + 0.25 · 4 = 3."""
    algorithm, kept = of("feddyn"), {"feddyn/g_i": vector(2)}
    adjustment = algorithm.begin(kept, NOTHING, 1)
    assert adjustment.correction is not None
    assert (adjustment.correction.tolist(), adjustment.mu) == ([-2.0], 0.25)
    assert algorithm.next_kept(kept, vector(-4), NOTHING)["feddyn/g_i"].tolist() == [3.0]


def test_feddyn_keeps_the_gradient_at_its_own_minimum() -> None:
    """First-order condition of eq. 1: where g(θ_k) - g_k + α (θ_k - θ) = 0, the new g_k is the gradient g(θ_k)."""
    hessian, minimum, received = vector(1, 2, 4), vector(1, -1, 2), vector(0.5, 0, -1)
    algorithm, kept = of("feddyn"), {"feddyn/g_i": vector(0.25, -0.5, 1)}
    adjustment = algorithm.begin(kept, NOTHING, 3)
    assert adjustment.correction is not None
    found = (hessian * minimum - adjustment.correction + adjustment.mu * received) / (hessian + adjustment.mu)
    after = algorithm.next_kept(kept, found - received, NOTHING)["feddyn/g_i"]
    np.testing.assert_allclose(after, hessian * (found - minimum), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(STATEFUL))
def test_first_update_begins_from_zero_and_leaves_what_was_kept_as_it_is(name: str) -> None:
    """An absent state is a zero, and a state that may have to be gone back to is never written over."""
    n_more = N if name == "scaffold" else 0
    c, delta = np.ones(n_more, np.float32), np.ones(N, np.float32)
    first = of(name).begin({}, c, N).correction
    assert first is not None
    assert first.tolist() == [float(n_more > 0)] * N
    kept: Arrays = of(name).next_kept({}, delta, c)
    before = {key: array.copy() for key, array in kept.items()}
    of(name).begin(kept, c, N)
    of(name).next_kept(kept, delta, c)
    assert all(np.array_equal(kept[key], before[key]) for key in before)
    assert {array.dtype.name for array in kept.values()} == {"float32"}


def test_only_scaffold_lets_more_travel() -> None:
    """As many values as there are trainables: buffers have no gradient."""
    initial = Initial({"w": np.zeros((3, 2)), "mean": np.zeros(4)}, buffers=frozenset({"mean"}))
    spec = ParameterSpec.of(initial)
    more = extended(spec, "scaffold")
    assert (more.own, more.n_params) == (spec, spec.n_params + 6)
    assert more.entries[-1].names == (CONTROL_VARIATE,)
    assert all(extended(spec, name) is spec for name in ALGORITHMS if name != "scaffold")


@pytest.mark.parametrize(
    ("name", "numbers"), [("fedmagic", {}), ("feddyn", {}), ("feddyn", {"alpha": 0.0}), ("fedprox", {"mu": -1.0})]
)
def test_what_is_no_algorithm_is_refused(name: str, numbers: dict[str, Any]) -> None:
    """By its name, with what it came with."""
    with pytest.raises(ConfigError, match=name):
        algorithm_named(name, **numbers)


@pytest.mark.parametrize(("pull", "n_steps"), [(0.5, 2), (0.01, 40), (1e-9, 1000), (1.0, 9), (0.3, 1), (0.3, 0)])
def test_effective_steps_are_the_sum_of_what_is_left_of_each(pull: float, n_steps: int) -> None:
    """‖a‖₁ = Σ (1 - ηµ)^k, term by term; 1.5 for two steps that are pulled by a half."""
    expected = sum((1 - pull) ** k for k in range(n_steps))
    assert effective_steps(n_steps, learning_rate=0.1, mu=pull / 0.1) == pytest.approx(expected, rel=1e-9)


def test_effective_steps_of_plain_sgd_are_its_steps() -> None:
    """µ = 0: FedNova's own case."""
    assert effective_steps(17, learning_rate=0.1, mu=0.0) == 17.0
