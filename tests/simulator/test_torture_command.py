"""What the operator may write."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.errors import ConfigError
from simulator.__main__ import app
from simulator.torture_command import seconds_of
from simulator.torture_tally import Tally


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("40m", 2400), ("1.5h", 5400), (" 2m ", 120)])
def test_time_is_read(text: str, seconds: float) -> None:
    """Seconds, minutes or hours."""
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "40 min", "m", "-3s", "1d", "0", "0s"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    """The message says how to write one."""
    with pytest.raises(ConfigError, match="40m"):
        seconds_of(text)


def test_wrong_time_ends_with_code_2() -> None:
    """Before anything is started."""
    result = CliRunner().invoke(app, ["torture", "--for", "soon"])
    assert result.exit_code == 2
    assert "'soon' is no time" in result.output


def test_tally_of_another_seed_ends_with_code_2(tmp_path: Path) -> None:
    """Before anything is started, and the tally stays."""
    Tally(seed=1, runs=3).save(tmp_path / "tally.json")
    result = CliRunner().invoke(app, ["torture", "--folder", str(tmp_path), "--seed", "2"])
    assert result.exit_code == 2
    assert Tally.load(tmp_path / "tally.json", 1).runs == 3


def test_torture_that_has_all_it_wants_starts_nothing_and_shows_its_tally(tmp_path: Path) -> None:
    """Asked again, it only repeats what was counted."""
    tally = Tally(seed=1, runs=3, updates=200_000)
    tally.kills.update({"aggregator: random instant": 2000, "broker": 300})
    tally.save(tmp_path / "tally.json")
    result = CliRunner().invoke(app, ["torture", "--folder", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert Tally.model_validate_json(result.output) == tally
