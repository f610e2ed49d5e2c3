import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.__main__ import app

SCENARIO = """
[run]
task = "tests.integration.linear:LinearTask"
[run.round]
report_goal = 3
[run.stop]
rounds = 3
metric = "loss"
at_most = 1e-30
[run.output]
plot = false
[devices.pi-4]
count = 5
link = "wifi"
"""


def _written(folder: Path, text: str = SCENARIO, name: str = "small.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_run_prints_one_json_and_nothing_else(tmp_path: Path) -> None:
    """A program reads the report from standard output; the same lies in the run's folder."""
    arguments = ["run", str(_written(tmp_path)), "--json", "--folder", str(tmp_path / "runs"), "--seed", "7"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["seed"] == 7
    assert report["totals"]["committed"] == 3
    assert report["totals"]["leases"]["accepted"] == 9
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "report.json").read_text()) == report
    assert (folder / "final.safetensors").exists()


def test_run_says_in_words_what_it_came_to(tmp_path: Path) -> None:
    """For a person: how it ended, what it cost, where it lies."""
    result = CliRunner().invoke(app, ["run", str(_written(tmp_path)), "--folder", str(tmp_path / "runs"), "--plain"])
    assert result.exit_code == 0, result.output
    for word in ("Ended:    rounds", "Result:   loss", "9 accepted", "Traffic:", "Machine:", "report.json"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[devices.a]\nclass = 'pi-9'", "devices.a.class"),
        ("[devices.a]\nlink = 'wfi'", "devices.a.link"),
        ("[devices.a]\navailability = { trace = 'gone.csv' }", "gone.csv"),
        ("[devices.a]\nshare = 1", "n_devices"),
        ("[devices.a]\n[run.round]\nreport_goal = 0", "report_goal"),
    ],
)
def test_mistake_in_a_scenario_is_exit_two(tmp_path: Path, text: str, says: str) -> None:
    """With the key or the file, and before anything is computed."""
    path = _written(tmp_path, f'[run]\ntask = "tests.integration.linear:LinearTask"\n{text}')
    result = CliRunner().invoke(app, ["run", str(path), "--folder", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize("needs", ["algorithm = 'scaffold'", "codec = 'top-1-percent'"])
def test_fleet_that_keeps_no_state_is_refused_a_run_that_needs_some(tmp_path: Path, needs: str) -> None:
    """By the names of key and group, with what to change; where one group keeps some the run may begin."""
    text = SCENARIO.replace("[devices.pi-4]", f"[run.training]\n{needs}\n[devices.pi-4]\nkeeps_state = false")
    arguments = ["--folder", str(tmp_path / "runs"), "--plain"]
    refused = CliRunner().invoke(app, ["run", str(_written(tmp_path, text)), *arguments])
    assert refused.exit_code == 2
    for word in ("devices.pi-4", f"training.{needs}", "keeps_state", "or choose"):
        assert word in refused.stderr
    path = _written(tmp_path, f"{text}\n[devices.other]\ncount = 3\n")
    begun = CliRunner().invoke(app, ["run", str(path), *arguments])
    assert begun.exit_code == 0, begun.output


def test_compared_runs_are_drawn_side_by_side(tmp_path: Path) -> None:
    """One after the other, with a table, a JSON and a picture."""
    paths = [str(_written(tmp_path, name=name)) for name in ("a.toml", "b.toml")]
    result = CliRunner().invoke(app, ["run", "--compare", *paths, "--folder", str(tmp_path / "runs"), "--plain"])
    assert result.exit_code == 0, result.output
    assert "comparison.json" in result.stdout
    (written,) = (tmp_path / "runs").glob("compare-*/comparison.json")
    assert [run["scenario"] for run in json.loads(written.read_text())["runs"]] == ["a.toml", "b.toml"]


def test_several_scenarios_without_compare_are_a_mistake(tmp_path: Path) -> None:
    """As is --compare with one."""
    path = str(_written(tmp_path))
    assert CliRunner().invoke(app, ["run", path, path]).exit_code == 2
    assert CliRunner().invoke(app, ["run", "--compare", path]).exit_code == 2
