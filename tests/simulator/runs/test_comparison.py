import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from simulator.runs.comparison import Comparison
from simulator.runs.curves import Cost, Curve
from simulator.runs.report import Report

COSTS = [Cost(at_s=60.0 * i, bytes_up=1000 * i, bytes_down=2000 * i, device_s=30.0 * i) for i in range(1, 4)]


def _report(name: str, values: list[float], target: float | None = None) -> Report:
    points = list(zip(COSTS, values, strict=True))
    fields: dict[str, Any] = {"metric": {"target": target}, "scenario": f"{name}.toml"}
    curve = Curve(name=name, metric="accuracy", is_falling=False, points=points)
    return Report(name=name, folder=Path("runs") / name, fields=fields, curve=curve, rounds=(), by_class={})


def test_table_says_what_each_run_needed_to_the_target(tmp_path: Path) -> None:
    """Time, bytes and device-seconds until the first run's own target; who never reached it says so."""
    compared = Comparison([_report("a", [0.5, 0.8, 0.9], 0.8), _report("b", [0.5, 0.6, 0.7])])
    assert compared.target == 0.8
    head, first, second = compared.lines()
    assert "to accuracy 0.8" in head
    assert [word in first for word in ("00:02:00", "2 kB", "4 kB", "60", "0.9000")] == [True] * 5
    assert "not reached" in second
    written = json.loads(compared.save(tmp_path)[0].read_text())
    assert [run["reached"] and run["reached"]["at_s"] for run in written["runs"]] == [120, None]


def test_runs_without_a_target_are_compared_where_all_of_them_come() -> None:
    """The worst of their bests."""
    assert Comparison([_report("a", [0.5, 0.8, 0.9]), _report("b", [0.5, 0.7, 0.6])]).target == 0.7


def test_runs_by_different_metrics_are_not_compared() -> None:
    """There is no curve that both are on."""
    other = _report("b", [1, 2, 3])
    with pytest.raises(ConfigError, match="metric differs"):
        Comparison([_report("a", [1, 2, 3]), replace(other, curve=replace(other.curve, metric="loss"))])
