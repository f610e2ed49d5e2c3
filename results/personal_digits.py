"""Handwritten digits on devices that differ in what they see and how: what personal models are compared on.

Two skews: by *labels*, where each device has two pieces of the images sorted by digit, so two to four digits; and by
*cameras*, where images are dealt at random, but each device changes all of its own by a contrast and a brightness that
it alone has. A fold holds out a fifth of each device's images.

Not here: which models are compared (`cases/personal.py`).
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from examples.linear_digits import all_digits
from results.skewed_digits import dealt
from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Task, Trained, Work
from shared.torch_task import Batch, TorchTask, norm_layers

__all__ = ["KINDS", "Remembering", "Skew", "digits_task"]

N_FOLDS = 5
Skew = Literal["labels", "cameras"]
CONTRASTS, BRIGHTNESSES = (0.4, 1.6), (-1.0, 1.0)
"""Ranges from which a device's are drawn; pixels are in [-1, 3]."""

WITH_NORM = ("global", "fedbn")
"""Kinds whose network has a norm: averaged over devices that differ it does harm, so that only FedBN needs it."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    "global": {},
    "plain": {},
    "fedbn": {"personal": norm_layers},
    "fedper": {"personal": ["head.*"]},
    "fedrep": {"personal": ["head.*"], "head_epochs": 1},
}
"""Arguments of `TorchTask` that make a model personal (`docs/learning.md`); "plain" is global, too."""


class Network(nn.Module):
    """64-32-10: `body`, `norm`, and the `head` on top.

    Args:
        has_norm: whether there is a batch norm in between.
    """

    def __init__(self, *, has_norm: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.norm: nn.Module = nn.BatchNorm1d(32) if has_norm else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores (n, 10) of images (n, 64)."""
        scores: torch.Tensor = self.head(torch.relu(self.norm(self.body(images))))
        return scores


def digits_task(kind: str, skew: Skew, *, seed: int, fold: int) -> TorchTask:
    """Return a task.

    Args:
        kind: which model, of `KINDS`.
        skew: in what the devices differ.
        seed: of the deal and the cameras.
        fold: which fifth of each device's images is held out.
    """
    return TorchTask(
        model=functools.partial(Network, has_norm=kind in WITH_NORM),
        loss=lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        metrics=_metrics,
        train_data=lambda client: _part(client, skew, seed, fold)[0],
        test_data=lambda client: None if client is None else _part(client, skew, seed, fold)[1],
        **KINDS[kind],
    )


def _metrics(model: nn.Module, batch: Batch) -> dict[str, Ratio]:
    images, labels = batch
    return {"accuracy": Ratio(int((model(images).argmax(dim=1) == labels).sum()), len(labels))}


def _part(client: Client, skew: Skew, seed: int, fold: int) -> tuple[TensorDataset, TensorDataset]:
    part, n = client.partition or (0, 1)
    return _divided(part, n, skew, seed, fold)


@functools.lru_cache(maxsize=256)
def _divided(part: int, n: int, skew: Skew, seed: int, fold: int) -> tuple[TensorDataset, TensorDataset]:
    """Return what a device trains on, and what it holds out."""
    inputs, labels = all_digits()[0]
    mine = dealt(n, "shards" if skew == "labels" else "alike", 1.0, seed)[part]
    rng = np.random.default_rng([seed, n, part])
    mine = rng.permutation(mine)
    images = inputs[mine, :64]
    if skew == "cameras":
        images = images * np.float32(rng.uniform(*CONTRASTS)) + np.float32(rng.uniform(*BRIGHTNESSES))
    is_held_out = np.arange(len(mine)) % N_FOLDS == fold
    return _dataset(images[~is_held_out], labels[mine][~is_held_out]), _dataset(
        images[is_held_out], labels[mine][is_held_out]
    )


def _dataset(images: NDArray[np.float32], labels: NDArray[np.int64]) -> TensorDataset:
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))


class Remembering:
    """A task that remembers what each client keeps to itself, so that its own model can be evaluated in the end.

    In a fleet without faults every update counts, and so what was kept last is what the device has.

    Args:
        task: whose calls are handed on.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.states: dict[str, Arrays] = {}

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return self._task.initial_parameters(seed)

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        trained = self._task.train(parameters, work, client)
        self.states[client.id] = trained.state
        return trained

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        return self._task.evaluate(parameters, client, state)
