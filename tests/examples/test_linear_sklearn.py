from pathlib import Path

import numpy as np
import pytest

from examples.cellars import all_wines, cellar
from examples.linear_sklearn import CENTRES, SPREADS, even, task
from shared.config import load_settings
from shared.task import Client, ClientId
from simulator.scenario import Scenario
from tests.simulator.runs.fleets import simulated

ROOT = Path(__file__).parents[2]


def a_cellar(part: int, n: int) -> Client:
    """The `part`-th of `n`."""
    return Client(id=ClientId(f"c{part}"), partition=(part, n))


@pytest.mark.parametrize("n", [1, 2, 10, 25])
def test_every_wine_lies_in_one_cellar(n: int) -> None:
    """And in none of them lies a wine of the test set."""
    proline = np.concatenate([cellar(a_cellar(part, n))[0][:, -1] for part in range(n)])
    (inside, _), (test, _) = all_wines()
    assert sorted(proline) == sorted(inside[:, -1])
    assert len(inside) + len(test) == 178
    assert all(len(cellar(a_cellar(part, n))[0]) for part in range(n))


def test_columns_are_brought_to_one_size() -> None:
    """Mean 0 and spread 1 over the fleet, to the three digits of the constants; what is missing counts as average."""
    fleet = [cellar(a_cellar(part, 10)) for part in range(10)]
    measured = np.concatenate([x for x, _ in fleet])
    np.testing.assert_allclose(np.nanmean(measured, axis=0), CENTRES, rtol=6e-3)
    np.testing.assert_allclose(np.nanstd(measured, axis=0), SPREADS, rtol=6e-3)
    x, _ = even(fleet[2])
    assert np.isnan(fleet[2][0]).any()
    assert (x[np.isnan(fleet[2][0])] == 0).all()


def test_cellars_learn_to_tell_cultivars_apart(tmp_path: Path) -> None:
    """The scenario that the page names, through the engine."""
    scenario = load_settings(
        Scenario, ROOT / "examples" / "linear_sklearn.toml", {"run.run": "r", "run.output.plot": False}
    )
    came, _ = simulated(scenario, tmp_path, task=task)
    assert came.result is not None
    assert came.result.metrics["accuracy"] >= 0.97
