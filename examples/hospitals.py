"""Hospitals: five of them learn to tell malignant breast tumours from benign ones, and no case leaves its hospital.

scikit-learn's bundled Wisconsin diagnostic data (Street, Wolberg and Mangasarian, 1993): 569 fine-needle aspirates,
each ten measurements of the cell nuclei in an image, as mean, standard error and worst. They are dealt to five sites
that differ in size and in whom they see: a university hospital has 45 % of all cases, a screening centre 5 %, most of
them benign, and two thirds of what is sent to an oncology centre is malignant. The measurements stay as they are.

Of each site's benign and of its malignant cases every fifth, from the k-th on, is held out in the task `fold_k`. A
hospital of its own brings its cases with `--data`: a .csv with the 30 measurements, and 1 (malignant) or 0, in each
line. The model is logistic regression: 31 numbers.

Not a medical device: see docs/uses/hospitals.md.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.errors import ConfigError
from shared.task import Client, Ratio
from shared.torch_task import Batch, TorchTask

__all__ = ["SITES", "Site", "fold_0", "fold_1", "fold_2", "fold_3", "fold_4", "task", "task_of"]

N_FEATURES, N_FOLDS = 30, 5
SPLIT_SEED = 2024
PENALTY = 0.005
"""Half of it times the squared weights is added to the loss in training, which so has one optimum, and a near one."""

Examples = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Inputs (n, 30), and labels (n,): 1 malignant, 0 benign."""

TYPICAL = np.array(
    [  # radius, texture, perimeter, area, smoothness, compactness, concavity, concave points, symmetry, fractal dim.
        *(15, 20, 90, 600, 0.1, 0.1, 0.1, 0.05, 0.2, 0.06),  # means
        *(0.4, 1, 3, 40, 0.007, 0.03, 0.03, 0.01, 0.02, 0.004),  # their standard errors
        *(16, 25, 100, 900, 0.1, 0.3, 0.3, 0.1, 0.3, 0.08),  # the worst
    ]
)
"""What is measured, in rough: public knowledge about the method, in each hospital's copy of this file. So nobody needs
a mean or a deviation over cases that are not its own, and all hospitals scale alike."""


class Site(NamedTuple):
    """A hospital: how many cases of either kind it has."""

    name: str
    n_benign: int
    n_malignant: int


SITES = (
    Site("university", 156, 100),
    Site("city", 102, 40),
    Site("district", 55, 30),
    Site("oncology", 20, 37),
    Site("screening", 24, 5),
)
"""In the order of the scenario's devices. Their shares of malignant cases are 39, 28, 35, 65 and 17 %."""


def scaled(measured: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return how many times larger than typical (n, 30) each measurement is, as a logarithm: about -3 to 3.

    All of them are positive but concavity, which may be zero.
    """
    return np.asarray(2 * np.log(measured / TYPICAL + 0.05), dtype=np.float32)


@functools.cache
def all_cases() -> Examples:
    """Return every case of the bundled data, scaled."""
    measured, is_benign = load_breast_cancer(return_X_y=True)
    return scaled(measured), (1 - is_benign).astype(np.float32)


@functools.cache
def cases(site: int, seed: int = SPLIT_SEED) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the benign and the malignant cases of a site, as indexes of `all_cases`, in an order of their own."""
    labels = all_cases()[1]
    dealt = []
    for label, counts in ((0, [each.n_benign for each in SITES]), (1, [each.n_malignant for each in SITES])):
        order = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        dealt.append(np.split(order, np.cumsum(counts)[:-1])[site])
    return dealt[0], dealt[1]


def from_file(path: Path) -> Examples:
    """Return a hospital's own cases.

    Raises:
        ConfigError: a line has another number of columns, or a label is neither 0 nor 1.
    """
    table = np.loadtxt(path / "cases.csv" if path.is_dir() else path, delimiter=",", ndmin=2)
    if table.shape[1] != N_FEATURES + 1:
        raise ConfigError(f"{path}: expected 30 measurements and a label a line, found {table.shape[1]} columns")
    if not np.isin(table[:, -1], (0, 1)).all():
        raise ConfigError(f"{path}: the last column is 1 (malignant) or 0 (benign)")
    return scaled(table[:, :-1]), table[:, -1].astype(np.float32)


@functools.cache
def divided(client: Client | None, fold: int, seed: int = SPLIT_SEED) -> tuple[Examples, Examples]:
    """Return what a client trains on, and what is held out of that; the aggregator (None) has what all hold out.

    Raises:
        ConfigError: there is no such site, or a file is not as it should be.
    """
    if client is not None and client.data is not None:
        inputs, labels = from_file(client.data)
        kinds = [np.flatnonzero(labels == label) for label in (0, 1)]
    else:
        inputs, labels = all_cases()
        kinds = [kind for site in _sites(client) for kind in cases(site, seed)]
    held_out = np.concatenate([kind[fold::N_FOLDS] for kind in kinds])
    kept = np.concatenate([np.delete(kind, np.s_[fold::N_FOLDS]) for kind in kinds])
    return (inputs[kept], labels[kept]), (inputs[held_out], labels[held_out])


def _sites(client: Client | None) -> list[int]:
    site, n = (0, 1) if client is None else client.partition or (0, 0)
    if n == 1:  # all data in one place
        return list(range(len(SITES)))
    if n != len(SITES):
        raise ConfigError(
            f"the cases are dealt to {len(SITES)} hospitals, and this is device {site} of {n}",
            hint="five devices, or cases of its own with --data",
        )
    return [site]


def build_model() -> nn.Module:
    """Return logistic regression: 30 weights and an offset."""
    return nn.Linear(N_FEATURES, 1)


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy; in training with the penalty."""
    inputs, labels = batch
    entropy = functional.binary_cross_entropy_with_logits(model(inputs).squeeze(1), labels)
    if not model.training:
        return entropy
    return entropy + PENALTY / 2 * sum(weights.square().sum() for weights in model.parameters())


def metrics(model: nn.Module, batch: Batch) -> dict[str, Ratio]:
    """Return sensitivity (malignant cases that were found), specificity (benign ones that were let go), accuracy."""
    inputs, labels = batch
    is_found, is_malignant = model(inputs).squeeze(1) > 0, labels > 0
    n_right = int((is_found == is_malignant).sum())
    n_found = int((is_found & is_malignant).sum())
    n_malignant = int(is_malignant.sum())
    return {
        "sensitivity": Ratio(n_found, n_malignant),
        "specificity": Ratio(n_right - n_found, len(labels) - n_malignant),
        "accuracy": Ratio(n_right, len(labels)),
    }


def task_of(fold: int, seed: int = SPLIT_SEED) -> TorchTask:
    """Return the task in which the `fold`-th fifth of each site's cases is held out; another seed deals them anew."""

    def dataset(client: Client | None, part: int) -> TensorDataset:
        inputs, labels = divided(client, fold, seed)[part]
        return TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))

    return TorchTask(
        model=build_model,
        loss=loss,
        metrics=metrics,
        train_data=lambda client: dataset(client, 0),
        test_data=lambda client: dataset(client, 1),
    )


fold_0, fold_1, fold_2, fold_3, fold_4 = map(task_of, range(N_FOLDS))
task = fold_0
