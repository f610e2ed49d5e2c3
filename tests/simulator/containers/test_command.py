from pathlib import Path

import pytest
from typer.testing import CliRunner

from simulator.__main__ import app

GROUP = """
[run]
task = "examples.linear_digits:task"
round = { report_goal = 1 }
stop = { rounds = 1 }

[devices.pi-4]
count = 2
"""


@pytest.mark.parametrize("line", ["faults = { crash_every_s = 60 }", "availability = { hours = [[22, 6]] }"])
def test_what_containers_do_not_carry_out_is_refused(tmp_path: Path, line: str) -> None:
    """By the group's name, before anything starts."""
    scenario = tmp_path / "fleet.toml"
    scenario.write_text(GROUP + line + "\n")
    result = CliRunner().invoke(app, ["part", "chaos", str(scenario), "--run", "r", "--folder", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert "devices.pi-4" in result.output
