"""What the tests of TorchTask are made of: a linear regression, its data, its work."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from shared.parameters import ParameterSpec
from shared.task import Arrays, Client, ClientId, Initial, Trained, Work
from shared.torch_task import Batch, TorchTask
from tests import task_work

CLIENT = Client(id=ClientId("c1"))


def some_work(**changes: Any) -> Work:
    """One epoch of fedavg in batches of four."""
    settings: dict[str, Any] = {"seed": 7, "batch_size": 4}
    return task_work.some_work(**{**settings, **changes})


def some_data(n: int = 10, *, dtype: torch.dtype = torch.float32, seed: int = 3) -> TensorDataset:
    """A linear relation of three inputs to one output."""
    order = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=order, dtype=torch.float64)
    return TensorDataset(x.to(dtype), (x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)).to(dtype))


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error."""
    x, y = batch
    return functional.mse_loss(model(x), y)


def linear() -> nn.Module:
    """Four parameters."""
    return nn.Linear(3, 1)


def a_task(model: Callable[[], nn.Module] = linear, data: Dataset[Any] | None = None, **changes: Any) -> TorchTask:
    """A linear regression."""
    data = some_data() if data is None else data
    given: dict[str, Any] = {"model": model, "loss": squared_error, "train_data": lambda client: data, "device": "cpu"}
    return TorchTask(**{**given, **changes})


def as_received(initial: Initial) -> Arrays:
    """Return what a client is given: the model after one way through the flat vector."""
    spec = ParameterSpec.of(initial)
    return spec.unflatten(spec.flatten(initial.parameters))


def train(task: TorchTask, **changes: Any) -> Trained:
    """Train from the initial parameters of seed 1."""
    return task.train(as_received(task.initial_parameters(1)), some_work(**changes), CLIENT)


def parameters_of(trained: Trained) -> Arrays:
    """What fedavg returned."""
    assert trained.parameters is not None
    return trained.parameters
