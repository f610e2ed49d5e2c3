"""The aggregated delta moves the model: trainables at the rate, buffers to the mean."""

import numpy as np
import pytest

from aggregator.rules import BLOCK_PARAMS
from aggregator.server_optimizer import Sgd, learning_rate_of, optimizer_named
from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec
from shared.task import Initial


def a_spec(n_trainable: int = 2, n_buffer: int = 1) -> ParameterSpec:
    """Return weights first, then a running variance."""
    parameters = {"weight": np.zeros(n_trainable, np.float32), "running_var": np.zeros(n_buffer, np.float32)}
    return ParameterSpec.of(Initial(parameters, buffers=frozenset({"running_var"})))


def test_step_moves_trainables_at_the_rate_and_buffers_to_the_mean() -> None:
    """Rate 0.5: 1 + 0.5·2 = 2, 1 − 0.5·4 = −1; the running variance takes its whole delta: 3 − 2.5 = 0.5."""
    parameters = np.array([1, 1, 3], dtype=np.float32)
    delta = np.array([2.0, -4.0, -2.5])
    moved, _ = Sgd().step({}, parameters, delta, a_spec(), 0.5)
    assert moved.tolist() == [2.0, -1.0, 0.5]
    assert moved.dtype == np.float32


def test_step_with_a_large_rate_never_makes_a_variance_negative() -> None:
    """Whatever the rate, a buffer ends between the clients' values."""
    moved, _ = Sgd().step({}, np.array([0, 0, 1], np.float32), np.array([0.0, 0.0, -0.9]), a_spec(), 10.0)
    assert moved[2] == pytest.approx(0.1)


def test_step_leaves_its_arguments_as_they_were() -> None:
    """A step that fails afterwards can be taken again."""
    parameters, delta = np.ones(3, np.float32), np.ones(3)
    Sgd().step({}, parameters, delta, a_spec(), 0.5)
    assert parameters.tolist() == [1, 1, 1]
    assert delta.tolist() == [1, 1, 1]


def test_step_in_blocks_is_the_step_at_once() -> None:
    """Models longer than a block are stepped in every block."""
    spec = a_spec(2 * BLOCK_PARAMS + 5, 7)
    rng = np.random.default_rng(1)
    parameters, delta = rng.standard_normal(spec.n_params, dtype=np.float32), rng.standard_normal(spec.n_params)
    moved, _ = Sgd().step({}, parameters, delta, spec, 0.3)
    expected = (parameters + delta * np.where(spec.is_trainable, 0.3, 1.0)).astype(np.float32)
    assert moved.tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [1e39, float("nan"), float("-inf")])
def test_step_to_a_model_that_is_not_finite_is_refused(value: float) -> None:
    """The parameter and what to change are named, instead of a model that is NaN for ever."""
    with pytest.raises(ConfigError, match=r"(?s)'weight'.*learning_rate"):
        Sgd().step({}, np.zeros(3, np.float32), np.array([0.0, value, 0.0]), a_spec(), 1.0)


def test_step_of_another_length_is_refused() -> None:
    """A delta of another model is a mistake of ours."""
    with pytest.raises(InvalidState):
        Sgd().step({}, np.zeros(3, np.float32), np.zeros(2), a_spec(), 1.0)


def test_learning_rate_of_fedsgd_takes_the_client_rate_too() -> None:
    """FedSGD at version 2, η_s = 2, η = 0.1, decay 0.5: 2 · 0.1 · 0.25 = 0.05; FedAvg's devices have applied η."""
    assert learning_rate_of("fedsgd", server=2.0, client=0.1, decay=0.5, version=2) == pytest.approx(0.05)
    assert learning_rate_of("fedavg", server=2.0, client=0.1, decay=0.5, version=2) == 2.0


def test_optimizer_that_does_not_exist_is_named_with_those_that_do() -> None:
    """The operator reads what is allowed."""
    with pytest.raises(ConfigError, match=r"(?s)'adam'.*sgd"):
        optimizer_named("adam")
