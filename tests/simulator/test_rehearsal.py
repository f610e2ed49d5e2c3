"""Rehearsals for real: processes, a broker, links. A task without torch keeps each to a few seconds."""

import json
import os
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.server.embedded_process import has_embedded
from broker.server.mosquitto import find_mosquitto
from simulator.__main__ import app
from simulator.run_report import report_of

TASK = """
import time
import numpy as np
from shared.task import Evaluated, Initial, Ratio, Trained

TRUTH = np.arange(2000) % 7


class Mean:
    def initial_parameters(self, seed):
        return Initial({"w": np.zeros(2000, np.float32)})

    def train(self, parameters, work, client):
        time.sleep(0.3)  # so that a round takes longer than the processes' starts differ
        i, n = client.partition
        target = TRUTH + np.random.default_rng(i).normal(size=2000)
        return Trained(parameters={"w": (parameters["w"] + 0.5 * (target - parameters["w"])).astype(np.float32)},
                       num_examples=10 + i, n_steps=1)

    def evaluate(self, parameters, client, state):
        right = int((abs(parameters["w"] - TRUTH) < 1).sum())
        return Evaluated(num_examples=2000, metrics={"accuracy": Ratio(right, 2000)})
"""
SCENARIO = """
processes = 2
time_limit_s = 60

[run]
task = "mean_task:Mean"
fleet = "rehearsed"
round = { report_goal = 4, quorum = 0.75, window_s = { min = 10, max = 20 } }
training = { codec = "float32" }  # whose updates have chunks
stop = { rounds = 5 }
transfer = { chunk_bytes = 4096, inline_bytes = 0, check_in_interval_s = 2, reconnect_window_s = 1 }

[devices.well]
count = 5
link = { latency_s = 0.002 }

[devices.doomed]
count = 2
killed_in_upload = true
link = { latency_s = 0.01, up_bytes_per_s = 8_000 }
"""
FAULTS = """
[devices.well]
count = 5
class = "pi-4"
link = { latency_s = 0.002 }

[devices.flaky]
faults = { dropout = 0.3, down_s = 0.5 }

[classes.pi-4]
seconds_per_batch = 0.5

[[faults]]
kind = "partition"
at_s = 0.5
lasts_s = 0.5
share = 0.3

[[faults]]
kind = "aggregator_restart"
at_s = 1
lasts_s = 0.2

[[faults]]
kind = "broker_restart"
at_s = 2
lasts_s = 0.2
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet of seven, of which two die, and its task beside it; the current folder is another one."""
    (tmp_path / "mean_task.py").write_text(TASK)
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            "mosquitto",
            marks=[
                pytest.mark.mosquitto,
                pytest.mark.skipif(find_mosquitto() is None, reason="no Mosquitto on this machine"),
            ],
        ),
        pytest.param("embedded", marks=pytest.mark.skipif(not has_embedded(), reason="amqtt is not installed")),
    ],
)
def test_rehearsal_commits_although_a_third_is_killed_in_mid_upload(scenario: Path, tmp_path: Path, kind: str) -> None:
    """Two of seven are killed (SIGKILL) in mid-upload: every round commits, and the summary says what happened."""
    result = CliRunner().invoke(app, ["rehearse", str(scenario), "--json", "--kind", kind, "--seed", "3"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["n_committed"], summary["n_abandoned"]) == (5, 0)
    assert {each["device"] for each in summary["killed"]} <= {"doomed-1", "doomed-2"}
    assert all(0 < each["chunks"] < each["n_chunks"] for each in summary["killed"])
    assert summary["killed"]
    assert summary["counts"]["accepted"] >= 5 * 3
    assert summary["bytes_up"] > summary["counts"]["accepted"] * 8000
    assert summary["bytes_down"] > 8000
    for name in ("model", "history"):
        assert (tmp_path / summary[name]).is_file()


@pytest.mark.timeout(90)
@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="no Mosquitto on this machine")
def test_rehearsal_with_classes_and_faults_comes_to_its_end(scenario: Path, tmp_path: Path) -> None:
    """Broker and aggregator die, part of the fleet is cut off, a device drops out: all commit, nothing is lost."""
    text = scenario.read_text().partition("[devices.well]")[0] + FAULTS
    scenario.write_text(text)
    result = CliRunner().invoke(app, ["rehearse", str(scenario), "--json", "--seed", "3"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["n_committed"] == 5
    found = report_of(Path(summary["history"]).parent)
    assert {event.kind for event in found.events} == {"broker_restart", "partition", "aggregator_restart"}
    assert set(found.outcomes.by_class) == {"pi-4", "flaky"}
    assert found.verdict is not None
    assert found.verdict.violations == []
    assert all(each > 0 for each in found.bytes_up.values())


@pytest.mark.parametrize("is_below", [True, False])
def test_device_that_may_join_is_called_with_the_python_in_use(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_below: bool
) -> None:
    """A second terminal in the same folder has no virtual environment active: the printed command names its Python."""
    (tmp_path / "mean_task.py").write_text("import no_such_module\n")
    python = Path(sys.executable)
    if is_below:
        monkeypatch.chdir(python.parents[1])
        python = python.relative_to(Path.cwd())
    result = CliRunner().invoke(app, ["rehearse", str(scenario), "--plain", "--folder", str(tmp_path / "runs")])
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("One more: ")]
    words = shlex.split(line.removeprefix("One more: "))
    assert words[:4] == [str(python), "-m", "edge_client", "--broker"]
    assert words[5:] == ["--fleet", "rehearsed", "--task", "mean_task:Mean", "--id", "late-1", "--once"]


def test_process_that_fails_ends_the_rehearsal_with_its_log(scenario: Path, tmp_path: Path) -> None:
    """A task that cannot be imported: exit 2 with the cause, which stands in the log of whoever failed first."""
    (tmp_path / "mean_task.py").write_text("import no_such_module\n")
    result = CliRunner().invoke(app, ["rehearse", str(scenario), "--plain"])
    assert result.exit_code == 2
    assert "no_such_module" in result.stderr
    assert "ended with exit code 2" in result.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[run.round]\nreport_gaol = 3", "did you mean round.report_goal?"),
        ("[run.stop]\nrounds = 0", "stop.rounds = 0"),
        ("seed = -1", "seed = -1"),
        ('settings = "nowhere.toml"', "nowhere.toml: cannot be read"),
    ],
)
def test_mistake_ends_with_2_before_anything_starts(tmp_path: Path, text: str, says: str) -> None:
    """A wrong key of the scenario, or of the run in it, is named with its file, and nothing is left behind."""
    path = tmp_path / "wrong.toml"
    table = '[run]\ntask = "m:t"\n[devices.a]\n'
    path.write_text(f"{text}\n{table}" if "=" in text.splitlines()[0] else f"{table}{text}\n")
    result = CliRunner().invoke(app, ["rehearse", str(path), "--folder", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert says in result.stderr
    assert not (tmp_path / "runs").exists()
