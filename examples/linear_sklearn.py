"""Which cultivar a wine is, by scikit-learn's logistic regression, learned in ten cellars that keep their wines.

Steps are of one size for all columns, so columns must be of one size, too: proline is some 750 mg/l, hue is near 1. No
cellar knows the whole, so what each is brought to comes from statistics over the fleet (`fleet_statistics.py`). A
column that a cellar did not measure counts as average.

python -m simulator run examples/linear_sklearn.toml
"""

import numpy as np
from sklearn.linear_model import SGDClassifier

from examples.cellars import CULTIVARS, Wines, cellar, tasting
from shared.sklearn_task import SklearnTask
from shared.task import Client

__all__ = ["CENTRES", "SPREADS", "task"]

CENTRES = (13.0, 2.29, 2.36, 19.4, 101.0, 2.3, 2.03, 0.355, 1.58, 5.09, 0.954, 2.6, 759.0)
SPREADS = (0.807, 1.07, 0.277, 3.22, 14.4, 0.632, 1.0, 0.117, 0.589, 2.31, 0.215, 0.707, 321.0)
"""Means and deviations of the columns, as `python -m aggregator statistics runs/wines` shows them."""


def even(wines: Wines) -> Wines:
    """Bring all columns to mean 0 and spread 1."""
    measured, cultivars = wines
    return np.nan_to_num((measured - np.array(CENTRES)) / np.array(SPREADS)), cultivars


def test_wines(client: Client | None) -> Wines | None:
    """Only the aggregator has wines to test with."""
    return even(tasting()) if client is None else None


task = SklearnTask(
    estimator=lambda: SGDClassifier(loss="log_loss", alpha=0.001, learning_rate="constant"),
    n_features=len(CENTRES),
    classes=CULTIVARS,
    train_data=lambda client: even(cellar(client)),
    test_data=test_wines,
)
