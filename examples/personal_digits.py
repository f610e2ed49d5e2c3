"""Handwritten digits on devices that each see three digits only: models of which a part stays at home, or never moves.

The images are those of `digits.py`, split otherwise: device i of n has all that fall to it of three of the ten digits,
a fifth of them held out. What a device is tested on is what it sees, so a head of its own, which knows which digits
there are, beats the common one. Three tasks, one network:

* `task`: the head stays on the device, and is trained before the body (FedRep). `personal_accuracy` is of the device's
  own head, `accuracy` of the untrained head that a new device begins with, or the aggregator: read the former.
* `common`: all travels, for comparison; there is one `accuracy`.
* `adapters`: a base that never moves, the same on all devices, with adapters of rank 8 and a head that travel.

    python -m simulator run examples/personal_digits.toml
"""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from examples.digits import all_digits, dataset, loss, metrics
from shared.task import Client
from shared.torch_task import TorchTask

__all__ = ["adapters", "common", "task"]

N_DIGITS, N_SEEN = 10, 3
SPLIT_SEED = 2025
DEFAULT_DEVICES = 20
RANK = 8


class Network(nn.Module):
    """A body that makes 64 features of 64 pixels, and a head that names one of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 64), nn.Linear(64, N_DIGITS)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: (n, 10)."""
        logits: Tensor = self.head(torch.relu(self.body(images)))
        return logits


class Adapted(nn.Module):
    """A linear layer W that stays as it is, and beside it B A of a low rank: Hu et al., LoRA (arXiv 2106.09685), §4.1.

    Args:
        base: the layer.
        rank: of the adapter.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))  # so that the first model is the base

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_features)."""
        out: Tensor = self.base(x) + x @ self.lora_a.T @ self.lora_b.T
        return out


def adapted() -> nn.Module:
    """Return the network with an adapter on its body. Its base is random here; load a trained one in its place."""
    network = Network()
    return nn.Sequential(Adapted(network.body, RANK), nn.ReLU(), network.head)


@functools.cache
def parts(n: int) -> list[NDArray[np.int64]]:
    """Return the examples of each of `n` devices, as indexes into all digits but the test set's.

    Device i sees the digits i, i + 1 and i + 3 modulo ten; who share a digit share its images evenly.
    """
    labels = all_digits()[0][1]
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    seen = [{(i + step) % N_DIGITS for step in (0, 1, 3)} for i in range(n)]
    found: list[list[np.int64]] = [[] for _ in range(n)]
    for digit in range(N_DIGITS):
        owners = [i for i in range(n) if digit in seen[i]] or list(range(n))
        for place, index in enumerate(order[labels[order] == digit]):
            found[owners[place % len(owners)]].append(index)
    return [np.random.default_rng([SPLIT_SEED, i]).permutation(part) for i, part in enumerate(found)]


def examples_of(client: Client) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images and labels of one device."""
    i, n = client.partition or (sum(client.id.encode()), DEFAULT_DEVICES)
    images, labels = all_digits()[0]
    mine = parts(n)[i % n]
    return images[mine], labels[mine]


def train_data(client: Client) -> TensorDataset:
    """Return four fifths of a device's examples."""
    images, labels = examples_of(client)
    return dataset(images[len(labels) // 5 :], labels[len(labels) // 5 :])


def test_data(client: Client | None) -> TensorDataset:
    """Return a device's own last fifth; for the aggregator (None) the common test set."""
    if client is None:
        return dataset(*all_digits()[1])
    images, labels = examples_of(client)
    return dataset(images[: len(labels) // 5], labels[: len(labels) // 5])


def _task(**parts_of_it: Any) -> TorchTask:
    data: dict[str, Any] = {"train_data": train_data, "test_data": test_data, "metrics": metrics, "loss": loss}
    return TorchTask(**{"model": Network, **data, **parts_of_it})


common = _task()
task = _task(personal=["head.*"], head_epochs=2)
adapters = _task(model=adapted, shared=["*lora_*", "2.*"])
