from pathlib import Path

import numpy as np
import pytest

from examples.thin import task
from shared.config import load_settings
from shared.parameters import ParameterSpec
from shared.task import Client, ClientId
from simulator.scenario import Scenario
from tests.task_work import some_work

ROOT = Path(__file__).parents[2]


def test_rehearsal_names_the_links_that_are_promised() -> None:
    """8 kB a second, 2 kB a second, and 40 kB a second through resets every 5 s; the settings are defaults."""
    scenario = load_settings(Scenario, ROOT / "examples" / "thin.toml")
    links = [(device.link.up_bytes_per_s, device.link.resets_every_s) for device in scenario.plan()]
    assert links == [(8000, None), (2000, None), (40_000, 5)]
    assert "transfer" not in scenario.run


def test_model_is_a_megabyte_and_each_round_goes_half_of_the_way() -> None:
    """What travels is what the rehearsal says, and no chunk is like another."""
    initial = task.initial_parameters(1)
    assert 4 * ParameterSpec.of(initial).n_params == 2**20
    weights = np.asarray(initial.parameters["weights"])
    assert len(np.unique(weights[:1024])) > 1000
    work = some_work()
    trained = task.train(dict(initial.parameters), work, Client(id=ClientId("a")))
    assert trained.parameters is not None
    assert np.allclose(1 - np.asarray(trained.parameters["weights"]), (1 - weights) / 2)
    assert task.evaluate(trained.parameters, None, {}).metrics["loss"] == pytest.approx(0.25, rel=0.01)
