"""The settings of a scenario's run: keys of `[run]`, over those of the file that it names."""

from pathlib import Path
from typing import Any

from simulator.run_settings import settings_of
from simulator.scenario import Scenario

RUN = {"task": "m:t", "round": {"report_goal": 1}, "stop": {"rounds": 1}}


def a_scenario(run: dict[str, Any], **keys: Any) -> Scenario:
    """Return a scenario of one device."""
    return Scenario.model_validate({"run": {**RUN, **run}, "devices": {"a": {"count": 1}}, **keys})


def test_seed_and_folder_are_the_runs_own_unless_others_are_given(tmp_path: Path) -> None:
    """A scenario's own seed and the command's folder go over those of [run], which are not forgotten."""
    own = {"seed": 7, "output": {"folder": str(tmp_path / "mine")}}
    settings, _ = settings_of(a_scenario(own), tmp_path / "s.toml", None)
    assert (settings.seed, settings.output.folder) == (7, tmp_path / "mine")
    settings, _ = settings_of(a_scenario(own, seed=8), tmp_path / "s.toml", tmp_path / "others")
    assert (settings.seed, settings.output.folder) == (8, tmp_path / "others")
