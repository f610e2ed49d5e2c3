"""The mathematics of a run, through the real rules: many devices learn what one would learn from all their data.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (AISTATS 2017, arXiv
1602.05629): FedSGD over all devices is gradient descent on the union of their examples, and FedAvg with one full-batch
local step is FedSGD.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.learning_rates import built_in_rates
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord
from aggregator.rules import weight_of
from shared.blocking import Lane
from shared.codecs import CODECS
from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import Arrays, Client, ClientId, Evaluated, Initial, Task, Trained, Work
from simulator.fleet import Fleet
from tests.aggregator.builders import lease_name, some_settings

T = TypeVar("T")
F64 = NDArray[np.float64]

N_STEPS = 20
SHARDS = (3, 10, 50, 1, 26)
"""Examples a device: unequal, one has a single example."""
N_INPUTS = 6
TOLERANCE = 1e-6


async def at_once(lane: Lane, work: Callable[[], T]) -> T:
    """Work without threads."""
    return work()


def go_on(steps_done: int, n_steps: int, **metrics: float) -> bool:
    """Let every training run to its end."""
    return True


# a task whose gradient is written down


def examples(device: int) -> tuple[F64, F64]:
    """Return (inputs, outputs) of a device; its inputs have a mean of their own, as on devices of different people."""
    rng = np.random.default_rng(device)
    inputs = rng.normal(loc=rng.normal(), size=(SHARDS[device], N_INPUTS))
    return inputs, (inputs @ np.arange(1.0, 7.0) + rng.normal(size=SHARDS[device]) > 0).astype(np.float64)


def linear(inputs: F64, outputs: F64, weights: F64) -> F64:
    """Return the gradient of half the mean squared error: X^T (X w - y) / n."""
    gradient: F64 = inputs.T @ (inputs @ weights - outputs) / len(outputs)
    return gradient


def logistic(inputs: F64, outputs: F64, weights: F64) -> F64:
    """Return the gradient of the mean cross-entropy: X^T (sigmoid(X w) - y) / n."""
    gradient: F64 = inputs.T @ (1 / (1 + np.exp(-(inputs @ weights))) - outputs) / len(outputs)
    return gradient


GRADIENTS: Mapping[str, Callable[[F64, F64, F64], F64]] = {"linear": linear, "logistic": logistic}


@dataclass(frozen=True)
class ByHand:
    """FedSGD returns the gradient over all examples; FedAvg takes one step along it.

    Args:
        loss: which.
    """

    loss: str

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return Initial({"w": np.random.default_rng(seed).normal(size=N_INPUTS).astype(np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        inputs, outputs = examples(int(client.id[1:]))
        weights = parameters["w"].astype(np.float64)
        gradient = GRADIENTS[self.loss](inputs, outputs, weights)
        if work.algorithm == "fedsgd":
            return Trained(gradient={"w": gradient.astype(np.float32)}, num_examples=len(outputs), n_steps=1)
        moved = (weights - work.learning_rate * gradient).astype(np.float32)
        return Trained(parameters={"w": moved}, num_examples=len(outputs), n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`: no data on the server."""
        return None


# devices and server, without what lies between them


class Learning:
    """The server's rooms, and devices that train in a loop: every update goes through codec, rule and optimizer."""

    def __init__(self, task: Task, folder: Path, **tables: Any) -> None:
        self.task, self.settings = task, some_settings(folder, **{"server": {}, **tables})
        initial = task.initial_parameters(1)
        self.spec = ParameterSpec.of(initial)
        state = ServerState(version=0, round_id=0, spec=self.spec, parameters=self.spec.flatten(initial.parameters))
        parts, store = PartFiles(folder / "updates"), ModelStore(folder / "versions")
        self.aggregation = Aggregation(self.settings, state, parts, store, at_once)

    @property
    def parameters(self) -> Vector:
        """The model as it is."""
        return self.aggregation.state.parameters

    def update(self, device: str) -> tuple[Vector, int]:
        """Let a device train; returns its delta and how many examples it has."""
        training, received = self.settings.training, self.parameters
        work = Work(
            round_id=1,
            seed=1,
            algorithm=training.algorithm,
            epochs=1,
            max_steps=None,
            max_seconds=None,
            batch_size=None,
            learning_rate=built_in_rates(self.settings).client(self.aggregation.state.version),
            options={},
            state={},
            progress=go_on,
        )
        trained = self.task.train(self.spec.unflatten(received), work, Client(id=ClientId(device)))
        return delta_of(trained, received, self.spec), trained.num_examples

    async def round(self, updates: list[tuple[Vector, int]]) -> Vector:
        """Make a version of these updates."""
        version = self.aggregation.state.version + 1
        records = [
            an_accept(delta, n, number, version, self.settings) for number, (delta, n) in enumerate(updates, start=1)
        ]
        for record in records:
            await self.aggregation.fold(record)
        await self.aggregation.write(await self.aggregation.make(version, version, records))
        return self.parameters

    async def all_devices(self) -> Vector:
        """Make a version of what all devices learn from this one."""
        return await self.round([self.update(f"d{i}") for i in range(len(SHARDS))])


def an_accept(delta: Vector, n: int, number: int, into: int, settings: Settings) -> AcceptRecord:
    """Return the row of a device's update, encoded as on the wire and weighted as the engine does."""
    data = CODECS["float32"].encode(delta, seed=0)
    return AcceptRecord(
        seq=number,
        lease=lease_name(number),
        device=f"d{number}",
        round_id=into,
        base_version=into - 1,
        into=into,
        weight=weight_of(settings.server.weighting, n, settings.round.max_examples),
        num_examples=n,
        n_steps=1,
        clip_scale=1.0,
        codec="float32",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        data=data,
    )


def off_by(found: Vector, expected: F64) -> float:
    """Return the relative distance of two models."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


DECAY = {"name": "exponential", "factor": 0.98}
FEDSGD = {"algorithm": "fedsgd", "learning_rate": 0.2, "schedule": DECAY}
FEDAVG = {"algorithm": "fedavg", "epochs": 1, "learning_rate": 0.2, "schedule": DECAY}


@pytest.mark.parametrize("loss", GRADIENTS)
@pytest.mark.parametrize("training", [FEDSGD, FEDAVG], ids=["fedsgd", "fedavg"])
async def test_twenty_rounds_are_gradient_descent_on_the_union(
    tmp_path: Path, loss: str, training: dict[str, Any]
) -> None:
    """Five devices of 1 to 50 examples: after each of 20 steps the model is the centralised one, within 1e-6."""
    learning = Learning(ByHand(loss), tmp_path, training=training)
    union = [np.concatenate(each) for each in zip(*map(examples, range(len(SHARDS))), strict=True)]
    centralised = learning.parameters.astype(np.float64)
    for step in range(N_STEPS):
        centralised -= 0.2 * 0.98**step * GRADIENTS[loss](union[0], union[1], centralised)
        assert off_by(await learning.all_devices(), centralised) <= TOLERANCE
    assert off_by(learning.parameters, ByHand(loss).initial_parameters(1).parameters["w"].astype(np.float64)) > 0.1


@pytest.mark.parametrize("loss", GRADIENTS)
async def test_fedavg_with_one_full_batch_step_is_fedsgd(tmp_path: Path, loss: str) -> None:
    """Step by step: the mean of models that moved is the model that moved along the mean."""
    one = Learning(ByHand(loss), tmp_path / "one", training=FEDSGD)
    two = Learning(ByHand(loss), tmp_path / "two", training=FEDAVG)
    for _ in range(N_STEPS):
        assert off_by(await one.all_devices(), (await two.all_devices()).astype(np.float64)) <= TOLERANCE


async def test_uniform_weights_are_another_model(tmp_path: Path) -> None:
    """A device with one example then counts as much as one with fifty: no longer gradient descent on the union."""
    learning = Learning(ByHand("linear"), tmp_path, training=FEDSGD, server={"weighting": "uniform"})
    gradients = [linear(*examples(i), learning.parameters.astype(np.float64)) for i in range(len(SHARDS))]
    expected = learning.parameters - 0.2 * np.mean(gradients, axis=0)
    assert off_by(await learning.all_devices(), expected) <= TOLERANCE


# by hand

ONE = Initial({"w": np.zeros(1, np.float32)})


class Nothing(ByHand):
    """One parameter at zero; its updates are given by the test."""

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return ONE


def minus(gradient: float) -> Vector:
    """Return what a device sends for a gradient."""
    return np.array([-gradient], np.float32)


async def test_ten_devices_of_a_thousand_examples_by_hand(tmp_path: Path) -> None:
    """Gradients 1 to 10, 1,000 examples each, rate 0.01: their mean is 5.5, the weight moves from 0 to −0.055."""
    learning = Learning(Nothing("linear"), tmp_path, training={"algorithm": "fedsgd", "learning_rate": 0.01})
    moved = await learning.round([(minus(k), 1000) for k in range(1, 11)])
    assert moved == pytest.approx([-0.055], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({}, -0.046),  # (100·1 + 300·5 + 600·5) / 1000 = 4.6
        ({"server": {"weighting": "uniform"}}, -0.11 / 3),  # (1 + 5 + 5) / 3
        ({"round": {"max_examples": 300}}, -0.01 * (100 + 1500 + 1500) / 700),
    ],
)
async def test_unequal_devices_by_hand(tmp_path: Path, tables: dict[str, Any], expected: float) -> None:
    """100, 300 and 600 examples with gradients 1, 5, 5, rate 0.01; by examples, uniform, and capped at 300."""
    learning = Learning(Nothing("linear"), tmp_path, training={"algorithm": "fedsgd", "learning_rate": 0.01}, **tables)
    moved = await learning.round([(minus(1), 100), (minus(5), 300), (minus(5), 600)])
    assert moved == pytest.approx([expected], rel=TOLERANCE)


async def test_order_of_arrival_changes_rounding_at_most(tmp_path: Path) -> None:
    """The sum is kept in float64: a round in any order is the same within 1e-7."""
    rng = np.random.default_rng(3)
    updates = [(rng.normal(size=N_INPUTS).astype(np.float32), int(rng.integers(1, 1000))) for _ in range(50)]
    models = [
        await Learning(ByHand("linear"), tmp_path / str(i)).round(order)
        for i, order in enumerate([updates, updates[::-1]])
    ]
    assert off_by(models[0], models[1].astype(np.float64)) <= 1e-7


# a model of torch


async def test_torch_model_learns_as_if_all_data_lay_in_one_place(tmp_path: Path) -> None:
    """A small network without batch norm, FedSGD over five devices against torch's own gradient over the union."""
    import torch
    from torch import nn
    from torch.utils.data import Dataset, TensorDataset

    from shared.torch_task import TorchTask

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(N_INPUTS, 8), nn.Tanh(), nn.Linear(8, 2))

    def data(device: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, outputs = examples(device)
        return torch.tensor(inputs, dtype=torch.float32), torch.tensor(outputs, dtype=torch.long)

    def shard(client: Client) -> "Dataset[Any]":
        return TensorDataset(*data(int(client.id[1:])))

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, outputs = batch
        return nn.functional.cross_entropy(model(inputs), outputs)

    task = TorchTask(model=network, loss=loss, train_data=shard, device="cpu")
    learning = Learning(task, tmp_path, training=FEDSGD)
    central = network().double()
    names = [entry.names[0] for entry in learning.spec.entries]
    start = learning.spec.unflatten(learning.parameters)
    central.load_state_dict({name: torch.tensor(start[name]).double() for name in names})
    shards = [data(i) for i in range(len(SHARDS))]
    inputs, outputs = (torch.cat(each) for each in zip(*shards, strict=True))
    for step in range(N_STEPS):
        central.zero_grad()
        nn.functional.cross_entropy(central(inputs.double()), outputs).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in central.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.2 * 0.98**step)
        state = {name: tensor.numpy() for name, tensor in central.state_dict().items()}
        expected = np.concatenate([state[name].ravel() for name in names])
        assert off_by(await learning.all_devices(), expected) <= TOLERANCE


# from end to end


@pytest.mark.virtual_time
@pytest.mark.parametrize("training", [FEDSGD, FEDAVG], ids=["fedsgd", "fedavg"])
async def test_whole_run_is_gradient_descent_on_the_union(tmp_path: Path, training: dict[str, Any]) -> None:
    """Broker, leases, journal and all: three rounds of five devices end with the centralised model, within 1e-6."""
    settings = some_settings(
        tmp_path,
        round={"report_goal": 5, "over_selection": 1.0, "quorum": 1.0},
        training=training,
        stop={"rounds": 3},
        evaluation={"central_every": 0},
        transfer={"check_in_interval_s": 10, "reconnect_window_s": 2},
    )
    async with Fleet(settings, ByHand("logistic"), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(len(SHARDS)):
            fleet.add(f"d{i}")
        result = await fleet.result()
    union = [np.concatenate(each) for each in zip(*map(examples, range(len(SHARDS))), strict=True)]
    centralised = ModelStore(result.folder / "versions").load(0).parameters.astype(np.float64)
    for step in range(3):
        centralised -= 0.2 * 0.98**step * logistic(union[0], union[1], centralised)
    assert off_by(load_file(result.model)["w"], centralised) <= TOLERANCE
