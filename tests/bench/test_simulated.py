from dataclasses import replace
from pathlib import Path

import pytest

from bench.fleets import FleetCase, FleetFigures
from bench.simulated import measured

SMALL = FleetCase(name="small", n_devices=200, n_rounds=4, report_goal=20)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> FleetFigures:
    """Two hundred devices and the digits, once for all."""
    return measured(SMALL, tmp_path_factory.mktemp("first"))


def test_same_seed_gives_the_same_bits(figures: FleetFigures, tmp_path: Path) -> None:
    """Two hundred devices, whoever is drawn and whenever their reports come: the model is the same file."""
    again = measured(SMALL, tmp_path)
    assert (again.sha256, again.n_fits, again.virtual_s) == (figures.sha256, figures.n_fits, figures.virtual_s)
    assert again.metrics == figures.metrics


def test_fleet_says_what_it_cost(figures: FleetFigures) -> None:
    """Time, memory a device and what it learned; no figure is missing."""
    assert figures.n_fits >= 4 * 20
    assert figures.virtual_s is not None
    assert min(figures.seconds, figures.virtual_s, figures.all_s) > 0
    assert figures.peak_rss is not None
    assert figures.peak_rss > 2**20
    assert figures.device_bytes is not None
    assert figures.metrics["accuracy"] > 0.3


def test_model_that_grows_by_one_is_checked(tmp_path: Path) -> None:
    """The add-one fleet counts nothing of its first round, and its model is right to the bit, or it raises."""
    case = replace(SMALL, n_devices=20, report_goal=20, over_selection=1.0, n_warm_up=1, model_bytes=4096)
    assert measured(case, tmp_path).n_fits == 3 * 20
