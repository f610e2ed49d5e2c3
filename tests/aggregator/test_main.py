"""`python -m aggregator`: what it says, where it leaves things, and how it exits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from aggregator.__main__ import app
from aggregator.config import Settings
from aggregator.journal_file import JournalFile
from aggregator.journal_rows import row_of
from aggregator.model_store import ModelStore, ServerState
from aggregator.records import CloseRecord, CommitRecord, ConfigRecord, Record
from aggregator.run_folder import RunFolder
from shared.config import load_settings, settings_digest, settings_json
from shared.parameters import ParameterSpec
from tests.integration.linear import LinearTask

ROOT = Path(__file__).parents[2]
TOML = """
task = "tests.integration.linear:LinearTask"
fleet = "demo"
run = "linear"
broker = {{ url = "mqtt://127.0.0.1:1" }}
round = {{ report_goal = 4, {more} }}
stop = {{ rounds = 3 }}
output = {{ folder = "{folder}" }}
"""


def a_toml(folder: Path, more: str = "quorum = 0.75") -> Path:
    """Write the settings of a run; returns where."""
    path = folder / "linear.toml"
    path.write_text(TOML.format(folder=folder / "runs", more=more))
    return path


def invoke(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def save_version(folder: Path, version: int) -> None:
    """Put a version of the linear model into the run's folder."""
    initial = LinearTask().initial_parameters(1)
    spec = ParameterSpec.of(initial)
    parameters = np.full(spec.n_params, version, np.float32)
    state = ServerState(version=version, round_id=version, spec=spec, parameters=parameters)
    ModelStore(folder / "runs" / "linear" / "versions").save(state)


def test_help_teaches() -> None:
    """Every command with what it does, and the exit codes."""
    text = invoke("--help").output
    for word in ("run", "watch", "check", "pause", "resume", "stop", "export", "repair", "Exit codes"):
        assert word in text
    assert "FEDMQ__STOP__ROUNDS=5" in invoke("run", "--help").output
    assert "repair runs/digits --dry-run" in invoke("repair", "--help").output


@pytest.mark.parametrize("command", ["run", "check", "pause", "resume", "stop", "export"])
def test_unknown_key_exits_2_naming_file_key_and_the_nearest(tmp_path: Path, command: str) -> None:
    """A typing error is found by the first command, whichever it is, and nothing is started."""
    path = a_toml(tmp_path, more="quorom = 0.75")
    result = invoke(command, path)
    assert result.exit_code == 2
    for word in (str(path), "round.quorom", "quorum"):
        assert word in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("quorum = 1.5", ["round.quorum", "1.5", "over the goal"]),
        ('mode = "asynch"', ["round.mode", "asynch", "semi-sync"]),
        ('mode = "async", over_selection = 1.5', ["round", "over_selection and outstanding exclude each other"]),
        ("lease_s = 601", ["round", "lease_s = 601", "window_s.max = 600"]),
        ("window_s = { min = 9, max = 5 }", ["window_s", "min 9 is over max 5"]),
        ("lease_s = 1e12", ["round.lease_s"]),
    ],
)
def test_wrong_value_exits_2_naming_what_is_allowed(tmp_path: Path, more: str, words: list[str]) -> None:
    """Key, value, and what would be allowed."""
    result = invoke("check", a_toml(tmp_path, more=more))
    assert result.exit_code == 2
    for word in words:
        assert word in result.output


def test_file_that_is_not_there_exits_2(tmp_path: Path) -> None:
    """Naming it."""
    result = invoke("check", tmp_path / "nowhere.toml")
    assert result.exit_code == 2
    assert "nowhere.toml" in result.output


def test_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is named when it is wrong."""
    monkeypatch.setenv("FEDMQ__ROUND__REPORT_GOAL", "none")
    result = invoke("check", a_toml(tmp_path))
    assert result.exit_code == 2
    assert "FEDMQ__ROUND__REPORT_GOAL" in result.output


def test_check_says_what_a_run_will_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's own model is asked for; nothing is started, nothing written."""
    monkeypatch.chdir(ROOT)
    result = invoke("check", a_toml(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["run"], facts["parameters"], facts["update_bytes"], facts["model_bytes"]) == ("linear", 8, 12, 32)
    assert (facts["update_travels"], facts["reports_a_round"]) == ("inline", "3 to 4")
    assert (facts["codec"], facts["rule"], "warning" in facts) == ("auto", "mean", False)
    assert not (tmp_path / "runs").exists()


def test_check_says_what_a_changed_toml_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that would go on: at which version, what differs, from when on; what cannot change is refused."""
    monkeypatch.chdir(ROOT)
    path = a_toml(tmp_path)
    settings = load_settings(Settings, path)
    folder = tmp_path / "runs" / "linear"
    folder.mkdir(parents=True)
    journal = JournalFile(folder / "journal.sqlite", None)
    journal.open()
    config = ConfigRecord(digest=settings_digest(settings), settings=settings_json(settings), from_version=1)
    records: list[Record] = [
        config,
        CloseRecord(into=1, last_seq=0),
        CommitRecord(version=1, round_id=1, digest="d" * 64),
    ]
    journal.append([row_of(record) for record in records])
    journal.confirm()
    journal.close()
    save_version(tmp_path, 1)
    assert json.loads(invoke("check", path, "--json").stdout)["settings_changed"] == "no"
    facts = json.loads(invoke("check", a_toml(tmp_path, more="quorum = 0.5"), "--json").stdout)
    assert facts["goes_on_at_version"] == "1"
    assert facts["settings_changed"] == "round.quorum: 0.75 -> 0.5 (at once)"
    path.write_text(path.read_text().replace('"demo"', '"other"'))
    refused = invoke("check", path)
    assert refused.exit_code == 2
    assert "begun with demo" in refused.output


def test_check_of_a_run_whose_journal_is_gone_exits_2(tmp_path: Path) -> None:
    """A start would refuse it: what is there, and the way on with all its arguments."""
    for version in (0, 1):
        save_version(tmp_path, version)
    result = invoke("check", a_toml(tmp_path))
    assert result.exit_code == 2
    for words in ("there is no journal", "versions 0, 1", "export RUN.toml --version 1 --out", "server.init_from"):
        assert words in result.output


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("nowhere.at_all:task", ["nowhere.at_all"]),
        ("tests.integration.linear:Missing", ["Missing"]),
        ("tests.integration.linear:N_FEATURES", ["initial_parameters"]),
        ("no-colon", ["no-colon"]),
    ],
)
def test_task_that_cannot_be_used_exits_2_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, words: list[str]
) -> None:
    """Does not import, is not there, lacks methods."""
    monkeypatch.chdir(ROOT)
    path = a_toml(tmp_path)
    path.write_text(path.read_text().replace("tests.integration.linear:LinearTask", task))
    result = invoke("check", path)
    assert result.exit_code == 2
    for word in words:
        assert word in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["pause", "resume", "stop"])
def test_steering_without_an_aggregator_says_what_to_do(tmp_path: Path, command: str) -> None:
    """Nobody holds the run's folder: how to start it."""
    result = invoke(command, a_toml(tmp_path))
    assert result.exit_code == 2
    assert "no aggregator holds this folder" in result.output
    assert "python -m aggregator run" in result.output


def test_export_writes_the_last_version_or_the_one_asked_for(tmp_path: Path) -> None:
    """As a file whose names are the model's own."""
    path, out = a_toml(tmp_path), tmp_path / "model.safetensors"
    for version in (0, 1, 2):
        save_version(tmp_path, version)
    result = invoke("export", path, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"version": 2, "path": str(out)}
    assert load_file(out)["weights"].tolist() == [2.0] * 8
    assert invoke("export", path, "--out", out, "--version", 1).exit_code == 0
    assert load_file(out)["weights"].tolist() == [1.0] * 8


def test_export_of_nothing_exits_2(tmp_path: Path) -> None:
    """No version yet, or not that one: which there are."""
    path = a_toml(tmp_path)
    result = invoke("export", path)
    assert result.exit_code == 2
    assert "there is no version yet" in result.output
    folder = tmp_path / "runs" / "linear"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.sqlite").write_bytes(b"")
    (folder / "best.safetensors").write_bytes(b"")
    gone = invoke("export", path)
    assert gone.exit_code == 2
    assert "every version is gone" in gone.output
    assert f'server.init_from = "{folder / "best.safetensors"}"' in gone.output
    save_version(tmp_path, 0)
    result = invoke("export", path, "--version", 7)
    assert result.exit_code == 2
    assert "no such version" in result.output


def test_folder_that_another_holds_exits_4_naming_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its pid."""
    monkeypatch.chdir(ROOT)
    with RunFolder(tmp_path / "runs" / "linear"):
        result = invoke("run", a_toml(tmp_path), "--log-level", "error")
    assert result.exit_code == 4
    assert f"pid {os.getpid()}" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_without_a_broker_knocks_until_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    """A line an attempt, with when the next is; Ctrl-C and SIGTERM exit with 130 and say how to go on."""
    command = [sys.executable, "-m", "aggregator", "run", str(a_toml(tmp_path))]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said = json.loads(line)
            if said["event"] == "broker_lost":
                break
        assert said["attempt"] == 1
        assert said["again_at"].endswith("UTC")
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=10.0) == 130
    assert "interrupted: the same command goes on" in rest
    assert "Traceback" not in rest
