from pathlib import Path
from typing import Any

import pytest

from results.case import Run, Scale
from results.federated import scenario_from
from results.uses import ALONE, CENTRAL, FEDERATED, Baseline, Measure, Use, whole
from tests.results.test_use_section import SHARE

LOSS = Measure(name="loss", title="loss", is_error=True)
TRAINED = Baseline(passes=(0.5, 1.0))
USE = Use(
    name="hospitals", measures=(SHARE, LOSS), chosen_by="loss", seeds_draw="folds", alone=TRAINED, central=TRAINED
)


def computed(arm: str, **options: float) -> dict[str, Any]:
    """A tenth of the hospitals' rounds."""
    return dict(USE.compute(Run(case="hospitals", arm=arm, seed=1, fold=1, options={"shrink": 10, **options})))


def test_federated_run_is_measured_on_everybodys_data_and_on_each_devices() -> None:
    """Three rounds of five hospitals."""
    numbers = computed(FEDERATED)
    assert numbers["rounds"] == 3
    assert len(numbers["device accuracy"]) == 5
    assert 0.5 < numbers["accuracy"] <= 1


def test_baselines_are_measured_after_each_number_of_passes() -> None:
    """More passes over the same data lower the loss here; all data in one place are better than most alone."""
    central, alone = computed(CENTRAL, rate=1), computed(ALONE, rate=1)
    assert central["loss @ 1"] < central["loss @ 0.5"]
    assert len(alone["device loss @ 1"]) == 5
    assert central["loss @ 1"] < sum(alone["device loss @ 1"]) / 5
    assert computed(CENTRAL, rate=1) == central


def test_runs_are_all_arms_of_every_seed_and_fold() -> None:
    """Each baseline at every one of its rates."""
    scale = Scale(seeds=range(1, 6), folds=range(5))
    assert len(USE.runs(scale)) == 5 * 5 * (1 + 2 * 3)
    use = Use(
        name="hospitals", measures=(LOSS,), chosen_by="loss", seeds_draw="folds", alone=Baseline(rates=(0.1, 1.0))
    )
    assert len(use.runs(scale)) == 5 * 5 * (1 + 2 + 3)


@pytest.mark.parametrize("stop", [{"rounds": 20, "metric": "m", "at_least": 0.9}, {"rounds": 20, "patience": 3}])
def test_whole_scenario_stops_by_rounds_alone(stop: dict[str, Any]) -> None:
    """Whoever stops where the test data say so has looked at them."""
    changes = {"run": {"task": "t:t", "stop": stop}, "devices.d.count": 1}
    scenario = scenario_from(None, changes)
    assert set(whole(scenario).run["stop"]) <= {"rounds", "metric"}
    assert whole(scenario).run["stop"]["rounds"] == 20
    assert whole(scenario, shrink=10).run["stop"]["rounds"] == 2


def test_every_source_of_a_use_exists() -> None:
    """Task and scenario."""
    root = Path(__file__).parents[2]
    assert all((root / source).exists() for source in USE.sources)
