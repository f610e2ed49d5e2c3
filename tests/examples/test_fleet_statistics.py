from pathlib import Path

import numpy as np
import pytest

from aggregator.statistics_report import read_statistics
from examples.cellars import CULTIVARS, MEASUREMENTS, cellar
from examples.fleet_statistics import HISTOGRAMS, task
from examples.linear_sklearn import CENTRES, SPREADS
from shared.config import load_settings
from shared.statistics_task import CategoryStatistics, NumberStatistics
from shared.task import Client, ClientId
from simulator.scenario import Scenario
from tests.simulator.runs.fleets import simulated

ROOT = Path(__file__).parents[2]


def test_wines_are_counted_as_if_they_lay_in_one_cellar(tmp_path: Path) -> None:
    """Through the engine; and what the classifier takes for means and deviations is this, to three digits."""
    scenario = load_settings(
        Scenario, ROOT / "examples" / "statistics.toml", {"run.run": "r", "run.output.plot": False}
    )
    simulated(scenario, tmp_path, task=task)
    found = read_statistics(tmp_path / "r").statistics
    fleet = [cellar(Client(id=ClientId("c"), partition=(part, 10))) for part in range(10)]
    measured = np.concatenate([x for x, _ in fleet])
    assert (found.n_devices, found.rows) == (10, len(measured))
    for i, name in enumerate(MEASUREMENTS):
        column, values = found.columns[name], measured[:, i][~np.isnan(measured[:, i])]
        assert isinstance(column, NumberStatistics)
        assert (column.count, column.missing) == (len(values), len(measured) - len(values))
        assert column.mean == pytest.approx(values.mean(), abs=column.mean_error)
        assert column.variance == pytest.approx(values.var(), abs=column.variance_error)
        assert CENTRES[i] == pytest.approx(column.mean, rel=6e-3)
        assert SPREADS[i] ** 2 == pytest.approx(column.variance, rel=1.2e-2)
        if name in HISTOGRAMS:
            assert column.histogram is not None
            assert column.histogram.counts == tuple(np.histogram(values, HISTOGRAMS[name])[0])
    cultivars = np.concatenate([y for _, y in fleet])
    assert found.columns["cultivar"] == CategoryStatistics(
        counts={name: int((cultivars == name).sum()) for name in CULTIVARS}, other=0, missing=0
    )
