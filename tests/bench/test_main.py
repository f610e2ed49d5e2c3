"""The benchmark for real, as small as it can be."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from broker.server.mosquitto import find_mosquitto


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="no Mosquitto on this machine")
@pytest.mark.timeout(90)
def test_contenders_take_turns_and_every_turn_is_reported(tmp_path: Path) -> None:
    """Two devices, 64 KiB, two rounds, ours in three forms and the pipe: all figures, and no file left."""
    words = ["--cases", "2x64KiB", "--only", "ours,int8,undigested,pipe", "--rounds", "2", "--turns", "1"]
    done = CliRunner().invoke(app, [*words, "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    turns_of = json.loads(done.stdout)["results"]["2x64KiB"]
    assert list(turns_of) == ["ours", "int8", "undigested", "pipe"]
    for (turn,) in turns_of.values():
        assert len(turn["round_s"]) == 2
        assert min(turn["round_s"]) > 0
        cpu_s = [turn["server_cpu_s"], turn["broker_cpu_s"], turn["clients_cpu_s"]]
        assert min(cpu_s) >= 0  # the kernel counts in ticks, and a part may take less than one
        assert sum(cpu_s) > 0
        assert min(turn["server_rss"], turn["broker_rss"]) > 2**20
    assert turns_of["ours"][0]["loop_lag_ms"] > 0
    assert list(tmp_path.iterdir()) == []
    assert "[4/4] 2x64KiB, turn 1 of 1, bare pipe" in done.stderr


@pytest.mark.parametrize(
    ("words", "hint"), [(["--cases", "10xlarge"], "10x1MiB"), (["--only", "ours,theirs"], "undigested")]
)
def test_command_line_that_will_not_do_says_what_would(words: list[str], hint: str, tmp_path: Path) -> None:
    """Exit code 2 and the words that are known, before anything is started."""
    done = CliRunner().invoke(app, [*words, "--folder", str(tmp_path)])
    assert done.exit_code == 2
    if find_mosquitto() is not None:
        assert hint in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured, who takes part, and a command for somebody in a hurry."""
    monkeypatch.setenv("COLUMNS", "200")
    said = CliRunner().invoke(app, ["--help"]).stdout
    for word in ("flower", "int8", "undigested", "pipe", "--turns 1", "10x10MiB", "Exit codes"):
        assert word in said
