"""The smallest task in PyTorch: a line through points that each device has of its own."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.task import Client
from shared.torch_task import Batch, TorchTask


def points(client: Client | None) -> TensorDataset:
    """Return the points of a client, or of the aggregator (None)."""
    if client is not None and client.data is not None:  # --data points.csv: x,y in each line
        table = torch.from_numpy(np.loadtxt(client.data, delimiter=",", dtype=np.float32))
        return TensorDataset(table[:, :1], table[:, 1:])
    random = torch.Generator().manual_seed(sum(client.id.encode()) if client else 0)
    x = torch.rand(50, 1, generator=random)
    return TensorDataset(x, 3 * x - 1 + 0.1 * torch.randn(50, 1, generator=random))


def model() -> nn.Module:
    """Return a new network."""
    return nn.Linear(1, 1)


def loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean squared error."""
    x, y = batch
    return functional.mse_loss(network(x), y)


task = TorchTask(model=model, loss=loss, train_data=points, test_data=points)
