import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.explain import explain
from examples import personal_digits
from examples.digits import all_digits
from shared.task import Arrays, Client, ClientId, Ratio
from shared.torch_task import TorchTask
from shared.torch_task.division import BASE
from simulator.scenario import Scenario
from tests.shared.torch_examples import parameters_of, some_work
from tests.simulator.runs.fleets import simulated

SCENARIO = Path(__file__).parents[2] / "examples" / "personal_digits.toml"
N_DEVICES = 20
DEVICE = Client(id=ClientId("d"), partition=(3, N_DEVICES))


def a_run(task: TorchTask, folder: Path, **run: Any) -> dict[str, dict[str, float]]:
    """Metrics of each device that reported after a short run of the scenario."""
    settings = tomllib.loads(SCENARIO.read_text())
    settings["run"] = {**settings["run"], "run": "r", "output": {"plot": False}, **run}
    came, _ = simulated(Scenario.model_validate(settings), folder, task=task)
    assert came.cause == "rounds"
    found: dict[str, dict[str, float]] = {}
    for each in explain(folder / "r").evaluations:
        ratios = {name: metric for name, metric in each.metrics if isinstance(metric, tuple)}
        found[each.device] = {name: ratio[0] / ratio[1] for name, ratio in ratios.items()}
    return found


@pytest.mark.parametrize("n", [1, 3, 10, 20, 27])
def test_devices_share_all_images_and_each_sees_three_digits(n: int) -> None:
    """Nothing is lost, nothing is there twice; with fewer than ten devices what nobody would see is seen by all."""
    labels = all_digits()[0][1]
    found = personal_digits.parts(n)
    assert sorted(np.concatenate(found)) == list(range(len(labels)))
    if n >= 10:
        assert {len(set(labels[part])) for part in found} == {3}
    for i in range(n):
        client = Client(id=ClientId(f"d{i}"), partition=(i, n))
        train, held_out = personal_digits.train_data(client), personal_digits.test_data(client)
        assert len(train) + len(held_out) == len(found[i])


def test_own_heads_fit_the_median_device_better_than_the_common_model(tmp_path: Path) -> None:
    """Device by device on the same held-out images, and in the tail as well."""
    stop = {"rounds": 5, "metric": "accuracy"}
    own = a_run(personal_digits.task, tmp_path / "own", stop=stop)
    common = a_run(personal_digits.common, tmp_path / "common", stop=stop)
    assert common.keys() == {f"pi-4-{i + 1}" for i in range(N_DEVICES)}
    pairs = [
        (own[device]["personal_accuracy"], common[device]["accuracy"])
        for device in common
        if "personal_accuracy" in own[device]
    ]
    assert len(pairs) > N_DEVICES / 2
    mine, theirs = (np.array(each) for each in zip(*pairs, strict=True))
    assert np.median(mine) > np.median(theirs) + 0.05
    assert np.percentile(mine, 10) > np.percentile(theirs, 10) + 0.05


def mean_loss(task: TorchTask, parameters: Arrays) -> float:
    """On the held-out images of one device."""
    evaluated = task.evaluate(parameters, DEVICE, {})
    assert evaluated is not None
    loss = evaluated.metrics["loss"]
    assert isinstance(loss, Ratio)
    return loss.numerator / loss.denominator


def test_adapters_and_head_are_all_that_travels_and_they_learn() -> None:
    """A third of the model; one training from a random base takes more than half of the loss away."""
    task = personal_digits.adapters
    initial = task.initial_parameters(1)
    names = {name for name in initial.parameters if not name.startswith(BASE)}
    assert names == {"0.lora_a", "0.lora_b", "2.weight", "2.bias"}
    n_travel = sum(array.size for array in initial.parameters.values())
    n_all = sum(array.size for array in personal_digits.common.initial_parameters(1).parameters.values())
    assert n_travel < 0.4 * n_all
    trained = task.train(initial.parameters, some_work(epochs=20, batch_size=16), DEVICE)
    assert mean_loss(task, parameters_of(trained)) < mean_loss(task, initial.parameters) / 2
