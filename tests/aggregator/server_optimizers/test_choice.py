"""The optimizer that the settings name, with its numbers; and a user's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.optimizer_settings import BUILT_IN_OPTIMIZERS, OptimizerSettings
from aggregator.server_optimizers import (
    Adagrad,
    Adam,
    FedAvgM,
    OptimizerState,
    ServerOptimizer,
    Sgd,
    Yogi,
    advance,
    load_optimizer,
)
from shared.errors import ConfigError
from shared.parameters import ParameterSpec
from shared.task import Initial

SPEC = ParameterSpec.of(Initial({"w": np.zeros(2, np.float32)}))
MODULE = """
class Halves:
    def init(self, spec):
        return {}

    def step(self, state, parameters, delta, spec, learning_rate):
        return (parameters + delta / 2).astype("float32"), state

class Forgetful:
    def step(self, state, parameters, delta, spec, learning_rate):
        return parameters, state

optimizer = Halves()
without_init = Forgetful()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module in it, which is importable only within a test."""
    (tmp_path / "halving_optimizer.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    return tmp_path


def three_steps(optimizer: ServerOptimizer) -> bytes:
    """Return where three deltas lead from zero."""
    model = np.zeros(2, np.float32)
    saved: OptimizerState = {}
    for delta in ([1.0, -0.1], [0.2, 0.3], [-2.0, 0.5]):
        model, saved = advance("x", optimizer, saved, model, np.array(delta), SPEC, 0.1)
    return model.tobytes()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Sgd()),
        ({"name": "sgd"}, Sgd()),
        ({"name": "fedavgm"}, FedAvgM(0.9)),
        ({"name": "fedavgm", "momentum": 0.5}, FedAvgM(0.5)),
        ({"name": "adagrad"}, Adagrad(beta_1=0.0, tau=1e-3)),
        ({"name": "adagrad", "beta_1": 0.9}, Adagrad(beta_1=0.9, tau=1e-3)),
        ({"name": "adam"}, Adam(beta_1=0.9, beta_2=0.99, tau=1e-3)),
        ({"name": "adam", "tau": 0.1, "beta_2": 0.9}, Adam(beta_1=0.9, beta_2=0.9, tau=0.1)),
        ({"name": "yogi"}, Yogi(beta_1=0.9, beta_2=0.99, tau=1e-3)),
        ({"name": "yogi", "beta_1": 0.0}, Yogi(beta_1=0.0, beta_2=0.99, tau=1e-3)),
    ],
)
def test_numbers_of_the_settings_are_those_of_the_optimizer(given: dict[str, Any], expected: ServerOptimizer) -> None:
    """Each key reaches its place, and what is left out is the paper's."""
    found = load_optimizer(OptimizerSettings(**given), Path("nowhere"))
    assert type(found) is type(expected)
    assert three_steps(found) == three_steps(expected)


def test_every_name_is_an_optimizer_of_its_own() -> None:
    """Five names, five ways."""
    names = list(BUILT_IN_OPTIMIZERS)
    walks = {three_steps(load_optimizer(OptimizerSettings(name=name), Path("nowhere"))) for name in names}
    assert len(walks) == len(names) == 5


@pytest.mark.parametrize("name", ["optimizer", "Halves"])
def test_optimizer_beside_the_settings_is_found(folder: Path, name: str) -> None:
    """An object, or a class that is called for one."""
    found = load_optimizer(OptimizerSettings(name=f"halving_optimizer:{name}"), folder)
    moved, _ = advance("x", found, {}, np.zeros(2, np.float32), np.array([2.0, 4.0]), SPEC, 1.0)
    assert moved.tolist() == [1.0, 2.0]


def test_what_lacks_a_method_is_refused(folder: Path) -> None:
    """At the start, with what is missing."""
    with pytest.raises(ConfigError, match=r"server optimizer 'halving_optimizer:without_init' .*, without init"):
        load_optimizer(OptimizerSettings(name="halving_optimizer:without_init"), folder)
    with pytest.raises(ConfigError, match="importing 'no_such_optimizer' failed"):
        load_optimizer(OptimizerSettings(name="no_such_optimizer:it"), folder)
