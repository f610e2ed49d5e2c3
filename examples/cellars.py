"""Data: scikit-learn's 178 wines of three cultivars, in cellars that are uneven in number and in kind.

Each wine has thirteen measurements. A fifth of the wines is nobody's: the aggregator's test set. Of the rest a cellar
has between a few and some thirty, most of one or two cultivars, and every third cellar has no colorimeter: it does not
know the colour of its wines.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_wine

from shared.task import Client

__all__ = ["COLOUR", "CULTIVARS", "MEASUREMENTS", "cellar", "tasting"]

SPLIT_SEED = 1736
CULTIVARS = ("Barolo", "Grignolino", "Barbera")
MEASUREMENTS = (
    *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
    *("nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280_od315", "proline"),
)
COLOUR = MEASUREMENTS.index("color_intensity")

Wines = tuple[NDArray[np.float64], NDArray[np.str_]]
"""Measurements (n, 13), NaN where nobody measured; cultivars (n,)."""


@functools.cache
def all_wines() -> tuple[Wines, Wines]:
    """Return (in cellars, test): always the same fifth is the test set."""
    measured, labels = load_wine(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    x, y, n_test = measured[order], np.array(CULTIVARS)[labels[order]], len(labels) // 5
    return (x[n_test:], y[n_test:]), (x[:n_test], y[:n_test])


def cellar(client: Client) -> Wines:
    """Return the wines of a client; by its partition, or one of ten by its name."""
    part, n = client.partition or (sum(client.id.encode()) % 10, 10)
    x, y = all_wines()[0]
    if n == 1:
        return x, y
    random = np.random.default_rng([SPLIT_SEED, n])
    taste = np.array([CULTIVARS.index(each) for each in y]) + random.normal(scale=0.5, size=len(y))
    shares = np.cumsum(random.permutation(np.arange(2, n + 2)) / np.arange(2, n + 2).sum())
    mine = np.split(np.argsort(taste), (shares[:-1] * len(y)).astype(int))[part]
    measured = x[mine]
    if part % 3 == 2:
        measured[:, COLOUR] = np.nan
    return measured, y[mine]


def tasting() -> Wines:
    """Return the test set."""
    return all_wines()[1]
