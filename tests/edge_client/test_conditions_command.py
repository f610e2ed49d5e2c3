import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_client.__main__ import app


def run(*arguments: str) -> tuple[int, str]:
    """Call the command; return its exit code and what it said."""
    result = CliRunner().invoke(app, ["conditions", *arguments])
    return result.exit_code, result.output


def a_toml(folder: Path, text: str) -> str:
    """Write a device's settings."""
    path = folder / "device.toml"
    path.write_text(text)
    return str(path)


def test_machine_that_takes_part_exits_0() -> None:
    """Every condition has a line, unknown ones too."""
    code, said = run()
    assert code == 0
    assert said.splitlines()[-1] == "takes part"
    assert {line.split()[0] for line in said.splitlines()[:-1]} >= {"device_class", "battery", "temperature_c", "load"}


def test_machine_that_does_not_take_part_exits_1_and_says_why(tmp_path: Path) -> None:
    """For a person, and for a script."""
    toml = a_toml(tmp_path, "[eligibility]\nmax_data_age_h = 1\nunknown = 'refuse'\n")
    code, said = run("--config", toml)
    assert (code, said.splitlines()[-1]) == (1, "does not take part: stale_data: unknown on this machine")
    code, said = run("--config", toml, "--json")
    assert (code, json.loads(said)["refusal"]["reason"]) == (1, "stale_data")
    fresh = tmp_path / "data.csv"
    fresh.write_text("1,2")
    assert run("--config", toml, "--data", str(fresh))[0] == 0


@pytest.mark.parametrize("line", ["min_battery = 2", "hours = [[3, 3]]", "fuel = 1", 'unknown = "maybe"'])
def test_wrong_setting_exits_2_and_is_named(tmp_path: Path, line: str) -> None:
    """The key stands in the message."""
    code, said = run("--config", a_toml(tmp_path, f"[eligibility]\n{line}\n"))
    assert code == 2
    assert f"eligibility.{line.split()[0]}" in said
