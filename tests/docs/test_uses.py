"""Every use has a page, a scenario and a task; the first command runs, and the settings for real are the same."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aggregator.config import Settings
from shared.config import load_settings
from shared.task import load_task
from simulator.__main__ import app as simulator
from simulator.scenario import Scenario, dotted
from tests.docs.generated import ROOT

USES = sorted(path.stem for path in (ROOT / "docs" / "uses").glob("*.md"))


def page(use: str) -> str:
    """The text of a use's page."""
    return (ROOT / "docs" / "uses" / f"{use}.md").read_text()


@pytest.mark.parametrize("use", USES)
def test_page_begins_with_the_one_command_of_its_scenario(use: str) -> None:
    """What a reader is told to type first is the simulation of the use's own scenario."""
    listing = re.search(r"^```sh\n(.*?)^```", page(use), flags=re.DOTALL | re.MULTILINE)
    assert listing
    assert shlex.split(listing[1].splitlines()[0]) == shlex.split(f"python -m simulator run examples/{use}.toml")


@pytest.mark.parametrize("use", USES)
def test_scenario_names_its_task_which_has_five_folds(use: str) -> None:
    """The task of the scenario is that of fold 0, and each fold can be named in a run's settings."""
    scenario = load_settings(Scenario, ROOT / "examples" / f"{use}.toml")
    assert scenario.run["task"] == f"examples.{use}:task"
    module = importlib.import_module(f"examples.{use}")
    folds = [load_task(f"examples.{use}:fold_{fold}", ROOT) for fold in range(5)]
    assert len(set(map(id, folds))) == 5
    assert module.task is folds[0]


@pytest.mark.parametrize("use", USES)
def test_settings_for_a_real_run_are_those_of_the_scenario(use: str, tmp_path: Path) -> None:
    """The TOML that the page prints is the scenario's `[run]`, but that devices alone evaluate; it loads.

    Each device's command names the fleet and the task of that file, and the one for all of them as many as there are.
    """
    found = re.search(r"^```toml\n(.*?)^```", page(use), flags=re.DOTALL | re.MULTILINE)
    assert found
    (tmp_path / "run.toml").write_text(found[1])
    settings = load_settings(Settings, tmp_path / "run.toml", with_environment=False)
    scenario = load_settings(Scenario, ROOT / "examples" / f"{use}.toml")
    expected = {**dotted(scenario.run), "evaluation.central_every": 0, "seed": scenario.seed, "run": use}
    printed = dotted(tomllib.loads(found[1]))
    assert {key: value for key, value in printed.items() if key != "broker.url"} == expected
    assert settings.evaluation.federated_every or settings.evaluation.at_end
    listings = re.findall(r"^```sh\n(.*?)^```", page(use), flags=re.DOTALL | re.MULTILINE)
    devices = [shlex.split(line) for listing in listings for line in listing.splitlines() if "edge_client" in line]
    one_machine, own_data = [dict(zip(words[3::2], words[4::2], strict=True)) for words in devices]
    for options in (one_machine, own_data):
        assert (options["--fleet"], options["--task"]) == (settings.fleet, settings.task)
    assert one_machine["--broker"] == settings.broker.url
    assert int(one_machine["--devices"]) == sum(scenario.counts.values())
    assert {"--data", "--id"} <= set(own_data)


@pytest.mark.parametrize("use", USES)
def test_command_runs_and_prints_what_the_page_shows(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of it: it ends well, and each line of the page's sample begins as one of its lines does."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "examples" / f"{use}.toml").read_text()
    short, n_changed = re.subn(r"^rounds = \d+", "rounds = 2", text, flags=re.MULTILINE)
    assert n_changed == 1
    short = re.sub(r"^federated_every = \d+", "federated_every = 1", short, flags=re.MULTILINE)
    (tmp_path / f"{use}.toml").write_text(f"{short}\n")
    found = CliRunner().invoke(simulator, ["run", str(tmp_path / f"{use}.toml"), "--folder", str(tmp_path), "--plain"])
    assert found.exit_code == 0, found.output
    sample = page(use).partition("<!-- sample -->")[2].partition("<!-- end of sample -->")[0]
    heads = re.findall(r"^([A-Z]\w+:)", sample, flags=re.MULTILINE)
    assert {"Ended:", "Result:"} <= set(heads)
    assert [head for head in heads if f"\n{head}" not in f"\n{found.output}"] == []
