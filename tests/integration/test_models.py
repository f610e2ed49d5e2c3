"""Models of every odd kind through a whole run: fetched, trained, folded, evaluated, exported, loaded again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from aggregator.evaluation import central_metrics
from shared.task import Client
from shared.torch_task import Batch, TorchTask
from simulator.fleet import Fleet
from tests.integration.linear import some_settings

N_DEVICES = 4


class Tied(nn.Module):
    """Two layers that are one: the second is the first, transposed in use only."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(2, 2, bias=False)
        self.out = nn.Linear(2, 2, bias=False)
        self.out.weight = self.into.weight
        self.last = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1)."""
        found: torch.Tensor = self.last(self.out(self.into(x)))
        return found


class Scale(nn.Module):
    """One parameter and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1)."""
        return x[:, :1] * self.factor


def _linear(dtype: torch.dtype) -> nn.Module:
    return nn.Linear(2, 1).to(dtype)


def _normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def _task(model: Callable[[], nn.Module], dtype: torch.dtype, sizes: Sequence[int]) -> TorchTask:
    """Return the task to find y = 2 x0 - x1 / 2; device i has `sizes[i]` examples."""

    def points(n: int, seed: int) -> TensorDataset:
        x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
        y = 2 * x[:, :1] - 0.5 * x[:, 1:]
        return TensorDataset(x.to(dtype), y.to(dtype))

    def train_data(client: Client) -> TensorDataset:
        i = int(client.id[1:])
        return points(sizes[i], seed=i)

    def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
        x, y = batch
        return functional.mse_loss(network(x), y)

    def test_data(client: Client | None) -> TensorDataset:
        return points(64, seed=99)

    return TorchTask(model=model, loss=loss, train_data=train_data, test_data=test_data)


def _loss(task: TorchTask) -> float:
    """Return the central loss of an untrained model."""
    evaluated = task.evaluate(task.initial_parameters(1).parameters, None, {})
    assert evaluated is not None
    return central_metrics(evaluated)["loss"]


@pytest.mark.parametrize(
    ("model", "dtype", "sizes"),
    [
        pytest.param(lambda: _linear(torch.float32), torch.float32, [1, 1, 1, 1], id="one example a device"),
        pytest.param(_normalised, torch.float32, [9, 8, 17, 5], id="batch norm, last batches of one"),
        pytest.param(_normalised, torch.float32, [1, 8, 1, 8], id="batch norm, some devices with one example"),
        pytest.param(Tied, torch.float32, [8, 8, 8, 8], id="tied weights"),
        pytest.param(lambda: _linear(torch.float64), torch.float64, [8, 8, 8, 8], id="float64"),
        pytest.param(lambda: _linear(torch.bfloat16), torch.bfloat16, [8, 8, 8, 8], id="bfloat16"),
        pytest.param(lambda: _linear(torch.float16), torch.float16, [8, 8, 8, 8], id="float16"),
        pytest.param(Scale, torch.float32, [8, 8, 8, 8], id="one parameter"),
    ],
)
async def test_model_learns_and_loads(
    tmp_path: Path, model: Callable[[], nn.Module], dtype: torch.dtype, sizes: Sequence[int]
) -> None:
    """Every round commits, the loss falls, and the final file fits the user's own module as printed in the README."""
    settings = some_settings(
        tmp_path,
        round={"report_goal": N_DEVICES, "over_selection": 1.0, "quorum": 1.0},
        training={"epochs": 3, "batch_size": 8, "learning_rate": 0.05},
        stop={"rounds": 4},
    )
    task = _task(model, dtype, sizes)
    async with Fleet(settings, task, tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(N_DEVICES):
            fleet.add(f"d{i}")
        result = await fleet.result()
    assert result.version == 4
    assert result.counts["accepted"] == 4 * N_DEVICES
    assert result.counts["failed"] == result.counts["rejected"] == 0

    net = model()
    net.load_state_dict(load_file(result.model))
    assert result.metrics["loss"] < _loss(task)
