from pathlib import Path

import numpy as np
import pytest

from examples.cellars import COLOUR, all_wines, cellar
from examples.linear_sklearn import even, task
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


def test_what_is_missing_counts_as_average() -> None:
    """Every third cellar has no colours; brought to one size, the average is 0."""
    measured, cultivars = cellar(a_cellar(2, 10))
    x, y = even((measured, cultivars))
    assert np.isnan(measured[:, COLOUR]).all()
    assert np.isnan(measured).sum() == len(measured)
    assert (x[:, COLOUR] == 0).all()
    assert (y == cultivars).all()


def test_cellars_learn_to_tell_cultivars_apart(tmp_path: Path) -> None:
    """The scenario that the page names, through the engine."""
    scenario = load_settings(
        Scenario, ROOT / "examples" / "linear_sklearn.toml", {"run.run": "r", "run.output.plot": False}
    )
    came, _ = simulated(scenario, tmp_path, task=task)
    assert came.result is not None
    assert came.result.metrics["accuracy"] >= 0.97
