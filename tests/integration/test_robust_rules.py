"""Robust rules in a whole simulated run: with attackers, with a restart, and what a version with too few would do."""

from pathlib import Path
from typing import Any

import pytest

from simulator.runs.simulation import Simulated
from tests.simulator.runs.fleets import a_scenario, simulated, written

ROBUST: list[Any] = [
    "median",
    {"name": "trimmed-mean", "byzantine": 2},
    {"name": "multi-krum", "byzantine": 2},
    {"name": "bulyan", "byzantine": 2},
    "geometric-median",
    {"name": "centered-clipping", "radius": 1.0},
    {"name": "median", "mixing": "nearest", "byzantine": 2},
]


def run(folder: Path, rule: Any, **changes: Any) -> tuple[Simulated, float, tuple[Any, ...]]:
    """Return what came of eleven devices, two of which attack, its last loss, and what was written."""
    attack = {"kind": "sign-flip", "strength": 30.0}
    scenario = a_scenario(
        devices={"board": {"count": 9}, "bad": {"count": 2, "class": "board", "attack": attack}},
        classes={"board": {"seconds_per_batch": 0.1}},
        run={
            "round": {"report_goal": 11, "over_selection": 1.0, "quorum": 1.0},
            "stop": {"rounds": 4, "metric": "loss"},
            "server": {"rule": rule},
        },
        **changes,
    )
    came, report = simulated(scenario, folder)
    return came, report.curve.points[-1][1], written(folder, report)


def test_attackers_own_the_mean(tmp_path: Path) -> None:
    """What the other tests withstand is an attack."""
    assert run(tmp_path, "mean")[1] > 10 * run(tmp_path / "2", "median")[1]


@pytest.mark.parametrize("rule", ROBUST, ids=lambda rule: rule if isinstance(rule, str) else rule["name"])
def test_a_robust_rule_learns_all_the_same(rule: Any, tmp_path: Path) -> None:
    """Two of eleven send thirty times their update backwards; the loss falls through the whole engine."""
    came, loss, _ = run(tmp_path, rule)
    assert came.cause == "rounds"
    assert loss < 0.1


@pytest.mark.parametrize("rule", ["median", {"name": "krum", "byzantine": 2}], ids=["median", "krum"])
def test_an_aggregator_that_restarts_folds_its_rows_again(rule: Any, tmp_path: Path) -> None:
    """In the midst of a round, and the same seed gives the same bits, with the restart."""
    restart = [{"kind": "aggregator_restart", "at_s": at} for at in (3.0, 7.0)]
    first, second = (run(tmp_path / name, rule, faults=restart) for name in ("1", "2"))
    assert first[0].cause == "rounds"
    assert first[0].struck
    assert first[2] == second[2]
