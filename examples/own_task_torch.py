"""The smallest task in PyTorch: a line through points that each device has of its own.

`python -m edge_client --task examples.own_task_torch:task …`; a real one reads its data from `client.data`.
"""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.task import Client
from shared.torch_task import Batch, TorchTask


def points(client: Client | None, n: int = 50) -> TensorDataset:
    """Return points of y = 3x - 1 with noise; other ones for each client, and for the aggregator (None)."""
    random = torch.Generator().manual_seed(sum(client.id.encode()) if client else 0)
    x = torch.rand(n, 1, generator=random)
    return TensorDataset(x, 3 * x - 1 + 0.1 * torch.randn(n, 1, generator=random))


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean squared error."""
    x, y = batch
    return functional.mse_loss(model(x), y)


task = TorchTask(model=lambda: nn.Linear(1, 1), loss=loss, train_data=points, test_data=points)
