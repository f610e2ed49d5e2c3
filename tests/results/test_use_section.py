import math
from collections.abc import Sequence
from typing import Literal

import pytest

from results.case import Found, Numbers, Run
from results.use_section import use_section
from results.uses import ALONE, CENTRAL, FEDERATED, Baseline, Measure, Use

SHARE = Measure(name="accuracy", title="accuracy")
ERROR = Measure(name="mae", title="error", is_error=True, unit="%")
SPREAD = (-0.001, 0.0, 0.001, 0.0, 0.0)
"""Of five folds."""


def a_use(measure: Measure, *others: Measure, seeds_draw: Literal["folds", "data"] = "folds") -> Use:
    """Two rates, two numbers of passes, chosen by the first measure."""
    trained = Baseline(rates=(0.5, 1.0), passes=(1.0, 2.0))
    return Use(
        name="hospitals",
        measures=(measure, *others),
        chosen_by=measure.name,
        alone=trained,
        central=trained,
        seeds_draw=seeds_draw,
    )


def found_of(measure: Measure, ours: float, theirs: float, *, spread: Sequence[float] = SPREAD) -> Found:
    """Two seeds and five folds; both baselines are at `theirs` at rate 1 and twice the passes, and worse elsewhere.

    Three devices: the second is as the mean, the first 0.1 lower, the third has nothing held out.
    """
    worse = 0.05 if measure.is_error else -0.05
    numbers: dict[str, Numbers] = {}
    runs = []
    name = measure.name
    for seed in (1, 2):
        for fold, off in enumerate(spread):
            run = Run(case="hospitals", arm=FEDERATED, seed=seed, fold=fold)
            mine = ours + off
            numbers[run.key()] = {name: mine, f"device {name}": [mine - 0.1, mine, None], "rounds": 3}
            runs.append(run)
            for rate in (0.5, 1.0):
                base = theirs + (worse if rate < 1 else 0)
                values = {1: base + worse, 2: base}
                run = Run(case="hospitals", arm=CENTRAL, seed=seed, fold=fold, options={"rate": rate})
                numbers[run.key()] = {f"{name} @ {multiple:g}": value for multiple, value in values.items()}
                runs.append(run)
                run = Run(case="hospitals", arm=ALONE, seed=seed, fold=fold, options={"rate": rate})
                numbers[run.key()] = {f"device {name} @ {k:g}": [v - 0.1, v, None] for k, v in values.items()}
                runs.append(run)
    return Found(runs=runs, numbers=numbers)


def outcomes(measure: Measure, found: Found) -> list[str]:
    """Against all data in one place, and against alone."""
    return [each.outcome for each in use_section(a_use(measure), found, ["text"]).verdicts]


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (0.90, ["met", "open"]),  # as good as both: not better than alone
        (0.91, ["met", "met"]),
        (0.885, ["met", "missed"]),  # 1.5 points less
        (0.87, ["missed", "missed"]),
    ],
)
def test_points_are_judged_by_two_and_by_better_than_alone(ours: float, expected: list[str]) -> None:
    """0.90 at the baselines' best; the folds differ by a tenth of a point."""
    found = found_of(SHARE, ours + 1e-6, 0.90)
    assert outcomes(SHARE, found) == expected


@pytest.mark.parametrize(
    ("ours", "expected"), [(0.95, ["met", "met"]), (1.04, ["met", "missed"]), (1.06, ["missed", "missed"])]
)
def test_errors_are_judged_by_five_per_cent(ours: float, expected: list[str]) -> None:
    """Less is better; 1 at the baselines' best."""
    assert outcomes(ERROR, found_of(ERROR, ours, 1.0)) == expected


def test_mean_that_is_near_with_an_interval_that_is_not_is_open() -> None:
    """±3 points between folds leave too much room."""
    assert outcomes(SHARE, found_of(SHARE, 0.901, 0.90, spread=(-0.03, 0.03, -0.03, 0.03, 0.0))) == ["open", "open"]


def test_baselines_are_taken_where_they_are_best() -> None:
    """Rate 1 and twice the passes, of both; s is 0.0667 points, times 2.262 √(1/10 + 1/4): ± 0.09."""
    overall, by_device = use_section(a_use(SHARE), found_of(SHARE, 0.91, 0.90), ["text"]).tables
    assert overall[1] == ("accuracy", "91.00 %", "90.00 %", "+1.00 [+0.91, +1.09] points", "rate x 1, passes x 2")
    assert by_device[1][1:3] == ("86.00 %", "85.00 %")  # the median of two devices lies between them
    assert by_device[1][5] == "100%"


def test_one_setting_of_a_baseline_has_all_of_its_measures() -> None:
    """A second measure that is better elsewhere is shown where the first is best, for one model has both."""
    found, other = found_of(SHARE, 0.91, 0.90), Measure(name="f1", title="f1", of="all")
    numbers = {key: {**each, "f1": 0.5} for key, each in found.numbers.items()}
    for run in found.runs:
        if run.arm == CENTRAL:
            numbers[run.key()] |= {"f1 @ 1": 0.9, "f1 @ 2": 0.4}
    rows = use_section(a_use(SHARE, other), Found(runs=found.runs, numbers=numbers), ["text"]).tables[0]
    assert rows[2][2] == "40.00 %"
    assert rows[1][-1] == rows[2][-1] == "rate x 1, passes x 2"


def test_seeds_with_data_of_their_own_count_and_folds_do_not() -> None:
    """Both seeds have the same mean over folds here: no spread, however much the folds differ."""
    found = found_of(SHARE, 0.91, 0.90, spread=(-0.03, 0.03, -0.03, 0.03, 0.0))
    overall = use_section(a_use(SHARE, seeds_draw="data"), found, ["text"]).tables[0]
    assert overall[1][3] == "+1.00 [+1.00, +1.00] points"


def test_baseline_that_diverged_is_not_taken() -> None:
    """What has no number is not the best, whatever its neighbours are."""
    found = found_of(SHARE, 0.91, 0.90)
    key = next(run.key() for run in found.runs if run.arm == CENTRAL and run.options["rate"] == 1)
    numbers = {**found.numbers, key: {"accuracy @ 1": 0.8, "accuracy @ 2": None}}
    overall = use_section(a_use(SHARE), Found(runs=found.runs, numbers=numbers), ["text"]).tables[0]
    assert overall[1][-1] == "rate x 0.5, passes x 2"
    assert not math.isnan(float(overall[1][2].split()[0]))
