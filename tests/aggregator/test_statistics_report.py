import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aggregator.__main__ import app
from aggregator.history import read_history
from aggregator.statistics_report import read_statistics
from shared.errors import ConfigError
from shared.statistics_task import Category, CategoryStatistics, Column, NumberStatistics, StatisticsTask, Table
from shared.task import Client
from simulator.scenario import Scenario
from tests.simulator.runs.fleets import simulated

TASK = "tests.aggregator.test_statistics_report:counting"
ROOT = Path(__file__).parents[2]


def rows(client: Client) -> Table:
    """Between none and six rows, by its place in the fleet."""
    assert client.partition is not None
    part = client.partition[0]
    random = np.random.default_rng(part)
    x = np.where(random.random(part % 7) < 0.2, np.nan, 20 + part + random.normal(size=part % 7))
    return {"x": x, "kind": np.array(["even", "odd"])[np.arange(part % 7) % 2]}


counting = StatisticsTask(
    columns=[Column(name="x", edges=(20.0, 25.0, 30.0)), Category(name="kind", values=("even", "odd"))], rows=rows
)


def a_run(
    folder: Path, *, n_devices: int = 9, devices: dict[str, Any] | None = None, **run: Any
) -> tuple[Scenario, Path]:
    """Count over a fleet in virtual time; return the scenario, and the run's folder."""
    settings: dict[str, Any] = {
        "task": TASK,
        "run": "r",
        "round": {"report_goal": n_devices, "over_selection": 1.0, "window_s": {"min": 60, "max": 60}},
        "training": {"codec": "float32"},
        "stop": {"rounds": 2},
        "output": {"plot": False},
    }
    for name, table in run.items():
        settings[name] = {**settings.get(name, {}), **table} if isinstance(table, dict) else table
    fleet = Scenario.model_validate({"run": settings, "seed": 3, "devices": devices or {"pi-4": {"count": n_devices}}})
    simulated(fleet, folder, task=counting)
    return fleet, folder / "r"


def pooled(fleet: Scenario, counted: set[str]) -> dict[str, np.ndarray]:
    """The tables of these devices in one place."""
    tables = [
        rows(Client(id=device.id, partition=device.partition))  # type: ignore[arg-type]
        for device in fleet.plan()
        if device.id in counted
    ]
    return {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in ("x", "kind")}


def test_statistics_of_a_fleet_that_loses_devices(tmp_path: Path) -> None:
    """One is killed in its upload, one is never there: the rest counts, each once, and its statistics are exact."""
    devices = {
        "pi-4": {"count": 6},
        "doomed": {"killed_in_upload": True, "link": {"up_bytes_per_s": 50}},
        "absent": {"availability": {"hours": [[3, 4]]}},
        "flaky": {"count": 3, "faults": {"dropout": 0.2, "crash_every_s": 200, "down_s": 20}},
    }
    fleet, folder = a_run(tmp_path, n_devices=11, devices=devices, round={"quorum": 0.5, "extensions": 0})
    counted = set(read_history(folder / "history.jsonl")[-1].participants)
    assert {f"pi-4-{i}" for i in range(1, 7)} <= counted
    assert not {"doomed-1", "absent-1"} & counted
    report = read_statistics(folder)
    assert (report.run, report.version, report.statistics.n_devices) == ("r", 2, len(counted))
    everything = pooled(fleet, counted)
    x = everything["x"][~np.isnan(everything["x"])]
    found = report.statistics.columns["x"]
    assert isinstance(found, NumberStatistics)
    assert (report.statistics.rows, found.count) == (len(everything["x"]), len(x))
    assert found.mean == pytest.approx(x.mean(), abs=found.mean_error)
    assert found.variance == pytest.approx(x.var(), abs=found.variance_error)
    assert found.histogram is not None
    assert found.histogram.counts == tuple(np.histogram(x, (20, 25, 30))[0])
    odd = int((everything["kind"] == "odd").sum())
    assert report.statistics.columns["kind"] == CategoryStatistics(
        counts={"even": len(everything["kind"]) - odd, "odd": odd}, other=0, missing=0
    )


def test_command_prints_a_table_and_json(tmp_path: Path) -> None:
    """The table for people, everything for programs; by the run's folder."""
    _, folder = a_run(tmp_path)
    shown = CliRunner().invoke(app, ["statistics", str(folder)])
    assert shown.exit_code == 0, shown.output
    for words in ("missing", "deviation", "20 to 25", "even", "on 9 devices: version 2 of r; counts are exact"):
        assert words in shown.output
    printed = json.loads(CliRunner().invoke(app, ["statistics", str(folder), "--json"]).output)
    assert printed["statistics"]["columns"]["x"]["histogram"]["edges"] == [20.0, 25.0, 30.0]
    assert printed["statistics"]["rows"] == sum(part % 7 for part in range(9))


def test_first_round_has_means_and_says_what_comes_next(tmp_path: Path) -> None:
    """Deviations need a mean to go around."""
    _, folder = a_run(tmp_path, stop={"rounds": 1})
    found = read_statistics(folder).statistics.columns["x"]
    assert isinstance(found, NumberStatistics)
    assert found.mean is not None
    assert found.variance is None
    assert "deviations come with the next round" in CliRunner().invoke(app, ["statistics", str(folder)]).output


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"round": {"mode": "async", "report_goal": 5, "over_selection": None}, "stop": {"rounds": 4}}, "late"),
        (
            {"server": {"reweight": "finishing"}, "round": {"quorum": 0.6}, "stop": {"rounds": 8}},
            "another weight than 1",
        ),
        ({"training": {"codec": "float16"}}, r"devices counted with a codec.*\n.*float32"),
        ({"server": {"optimizer": {"learning_rate": 0.5}}}, r"not the mean"),
        ({"server": {"rule": "median"}}, r"made by the rule median.*\n?.*no sums"),
        ({"round": {"report_goal": 4}}, r"4 devices counted, and below 5"),
        ({"task": "examples.own_task_numpy:task"}, "no StatisticsTask"),
    ],
    ids=str,
)
def test_version_that_does_not_hold_the_sums_is_not_shown(run: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Whatever setting it comes from, the message names it; exit code 2."""
    devices = {"steady": {"count": 6}, "flaky": {"count": 3, "faults": {"dropout": 0.5, "down_s": 90}}}
    _, folder = a_run(tmp_path, devices=devices, **run)
    with pytest.raises(ConfigError, match=says):
        read_statistics(folder)
    assert CliRunner().invoke(app, ["statistics", str(folder), "--json"]).exit_code == 2


def test_a_run_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """Neither run nor version."""
    with pytest.raises(ConfigError, match="no such run"):
        read_statistics(tmp_path / "gone")


def test_task_that_was_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges that were moved would name other bins."""
    _, folder = a_run(tmp_path)
    moved = StatisticsTask(columns=[Column(name="x", edges=(20.0, 26.0, 30.0))], rows=rows)
    monkeypatch.setattr("aggregator.statistics_report.load_task", lambda name, place: moved)
    with pytest.raises(ConfigError, match="other columns"):
        read_statistics(folder)
