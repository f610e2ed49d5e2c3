"""Handwritten digits, split over devices that each see some digits more often than others.

scikit-learn's bundled 1,797 images of 8 x 8 pixels; a fifth is the aggregator's test set. In a rehearsal or simulation
the rest falls to n devices by Dirichlet(0.5) over the labels (Hsu et al., arXiv 1909.06335). A device of its own brings
its own images with `--data`: an .npz with `x` (n, 64) in [0, 16] and `y` (n,), or a .csv with 64 pixels and the label
in each line; without `--data` it takes the part of twenty that its id names.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.errors import ConfigError
from shared.task import Client, Ratio
from shared.torch_task import Batch, TorchTask

__all__ = ["task"]

Examples = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Images (n, 64) in [-1, 3], about centred, and labels (n,) in 0..9."""

SPLIT_SEED = 2024
CONCENTRATION = 0.5
"""Of the Dirichlet: smaller is more uneven."""
FEWEST = 8
"""Examples that every device has, as long as there are enough."""
DEFAULT_DEVICES = 20


def build_model() -> nn.Module:
    """Return a 64-64-10 perceptron: 4,810 parameters, 19 KB."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy."""
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def metrics(model: nn.Module, batch: Batch) -> dict[str, Ratio]:
    """Return how many are right, of how many."""
    images, labels = batch
    right = int((model(images).argmax(dim=1) == labels).sum())
    return {"accuracy": Ratio(right, len(labels))}


def scaled(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels in [0, 16] about centred on 0 and as wide as 1: plain SGD then needs half the rounds."""
    return (pixels / 4 - 1).astype(np.float32)


@functools.cache
def all_digits() -> tuple[Examples, Examples]:
    """Return (train, test): always the same fifth is the test set."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    images, labels = scaled(images[order]), labels[order].astype(np.int64)
    n_test = len(labels) // 5
    return (images[n_test:], labels[n_test:]), (images[:n_test], labels[:n_test])


@functools.cache
def partition(n: int) -> list[NDArray[np.int64]]:
    """Return the examples of each of `n` devices, as indexes: a function of `n` alone.

    Raises:
        ConfigError: there are more devices than examples.
    """
    labels = all_digits()[0][1]
    if not 1 <= n <= len(labels):
        raise ConfigError(f"{len(labels)} digits cannot be split over {n} devices")
    rng = np.random.default_rng([SPLIT_SEED, n])
    order = rng.permutation(len(labels))
    n_sure = n * min(FEWEST, len(labels) // n)
    parts = [list(part) for part in np.split(order[:n_sure], n)]
    for label in range(10):
        rest = order[n_sure:][labels[order[n_sure:]] == label]
        cuts = np.cumsum(rng.dirichlet(np.full(n, CONCENTRATION)))[:-1] * len(rest)
        for part, more in zip(parts, np.split(rest, cuts.astype(np.int64)), strict=True):
            part.extend(more)
    return [rng.permutation(np.array(part, dtype=np.int64)) for part in parts]


def from_file(path: Path) -> Examples:
    """Return a device's own examples."""
    if path.is_dir():
        path = path / "digits.npz"
    if path.suffix == ".csv":
        table = np.loadtxt(path, delimiter=",", ndmin=2)
        images, labels = table[:, :-1], table[:, -1]
    else:
        with np.load(path) as arrays:
            images, labels = arrays["x"], arrays["y"]
    if images.ndim != 2 or images.shape[1] != 64 or len(images) != len(labels):
        raise ConfigError(f"{path}: expected images of 64 pixels and a label each, found {images.shape}")
    return scaled(images), labels.astype(np.int64)


@functools.cache
def examples_of(client: Client) -> Examples:
    """Return what one device has."""
    if client.data is not None:
        return from_file(client.data)
    part, n = client.partition or (int(hashlib.sha256(client.id.encode()).hexdigest(), 16), DEFAULT_DEVICES)
    images, labels = all_digits()[0]
    mine = partition(n)[part % n]
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


def dataset(images: NDArray[Any], labels: NDArray[Any]) -> TensorDataset:
    """Return pairs of (image, label)."""
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))


task = TorchTask(model=build_model, loss=loss, metrics=metrics, train_data=train_data, test_data=test_data)
