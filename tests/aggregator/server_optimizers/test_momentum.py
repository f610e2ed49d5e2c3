"""SGD and momentum, by their properties and by hand."""

import numpy as np
import pytest

from aggregator.server_optimizers import FedAvgM, OptimizerState, ServerOptimizer, Sgd, advance
from shared.parameters import ParameterSpec
from shared.task import Initial

SPEC = ParameterSpec.of(Initial({"w": np.zeros(1, np.float32)}))


def path(optimizer: ServerOptimizer, deltas: list[float], rate: float) -> list[float]:
    """Return where a parameter is after each delta, from 0."""
    model, found = np.zeros(1, np.float32), []
    saved: OptimizerState = {}
    for delta in deltas:
        model, saved = advance("x", optimizer, saved, model, np.array([delta]), SPEC, rate)
        found.append(float(model[0]))
    return found


def test_sgd_by_hand() -> None:
    """Rate 0.5: 0 + 0.5·2 = 1, 1 − 0.5·4 = −1."""
    assert path(Sgd(), [2.0, -4.0], 0.5) == [1.0, -1.0]


def test_fedavgm_by_hand() -> None:
    """β = 0.5, η = 2, deltas 1, 1, 0: v = 1, 1.5, 0.75, so w = 2, 5, 6.5."""
    assert path(FedAvgM(0.5), [1.0, 1.0, 0.0], 2.0) == [2.0, 5.0, 6.5]


def test_fedavgm_without_momentum_is_sgd() -> None:
    """To the bit."""
    deltas = np.random.default_rng(1).normal(size=20).tolist()
    assert path(FedAvgM(0.0), deltas, 0.3) == path(Sgd(), deltas, 0.3)


def test_equal_deltas_end_as_steps_of_one_over_one_minus_beta() -> None:
    """β = 0.9: where devices agree, a version moves the model by ten deltas."""
    walked = path(FedAvgM(0.9), [0.01] * 200, 1.0)
    assert walked[-1] - walked[-2] == pytest.approx(0.1, rel=1e-4)


def test_deltas_that_alternate_step_by_half() -> None:
    """β = 0.9 and ±1: steps become ±1/(1 + β), about half of what they are without momentum."""
    walked = path(FedAvgM(0.9), [1.0, -1.0] * 100, 1.0)
    assert walked[-1] - walked[-2] == pytest.approx(-1 / 1.9, rel=1e-5)
    assert walked[-2] - walked[-3] == pytest.approx(1 / 1.9, rel=1e-5)
