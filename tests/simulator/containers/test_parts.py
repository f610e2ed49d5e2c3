"""The parts for real, as containers run them, but as processes of this machine."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.server.mosquitto import find_mosquitto
from broker.server.port_owner import chosen_port
from simulator.run_report import report_of

TASK = """
import time
import numpy as np
from shared.task import Initial, Trained


class Slow:
    def initial_parameters(self, seed):
        return Initial({"w": np.zeros(2000, np.float32)})

    def train(self, parameters, work, client):
        for step in range(4):
            time.sleep(0.4)  # four rounds of them outlast the chaos
            work.progress(step + 1, 4)
        step = np.random.default_rng([work.seed, client.partition[0]]).normal(size=2000).astype(np.float32)
        return Trained(parameters={"w": parameters["w"] + step}, num_examples=10, n_steps=4)

    def evaluate(self, parameters, client, state):
        return None
"""
SCENARIO = """
[run]
task = "slow_task:Slow"
fleet = "parts"
round = { report_goal = 2, quorum = 0.5, over_selection = 1.0, window_s = { min = 3, max = 10 } }
stop = { rounds = 4 }
output = { plot = false }
transfer = { chunk_bytes = 4096, inline_bytes = 0, check_in_interval_s = 1, reconnect_window_s = 0.5 }

[devices.porch]
count = 2
class = "pi-4"
link = { latency_s = 0.002 }

[[faults]]
kind = "partition"
at_s = 0
lasts_s = 0.5
share = 0.5

[[faults]]
kind = "broker_restart"
at_s = 0.5
lasts_s = 0.2

[[faults]]
kind = "aggregator_restart"
at_s = 2
lasts_s = 0.2
"""


@pytest.fixture
def scenario() -> Iterator[Path]:
    """A fleet of two and its task."""
    # not in tmp_path: with the test's name in it, sockets in the run's folder have paths longer than a socket may have
    with tempfile.TemporaryDirectory(prefix="fedmq-") as folder:
        (Path(folder) / "slow_task.py").write_text(TASK)
        path = Path(folder) / "s.toml"
        path.write_text(SCENARIO)
        yield path


def started(scenario: Path, port: int, *arguments: str) -> "subprocess.Popen[bytes]":
    """A part, as its container starts it."""
    runs = scenario.parent / "runs"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "FEDMQ_FOLDER": str(runs),
        "FEDMQ_RUN": "r",
        "FEDMQ_BROKER": f"mqtt://127.0.0.1:{port}",
    }
    log = (scenario.parent / f"{'-'.join(arguments[:1])}-{os.urandom(2).hex()}.log").open("wb")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "simulator", "part", *arguments], env=environment, stdout=log, stderr=log
        )


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="no Mosquitto on this machine")
@pytest.mark.timeout(120)
def test_fleet_of_parts_comes_to_its_last_round_under_chaos(scenario: Path) -> None:
    """Broker and aggregator are killed and a link is cut: every round commits, nothing is lost or counted twice."""
    port = chosen_port("127.0.0.1", 0)
    parts = [started(scenario, port, "broker", "--port", str(port)), started(scenario, port, "chaos", str(scenario))]
    try:
        aggregator = started(scenario, port, "aggregator", str(scenario))
        parts += [aggregator, *(started(scenario, port, "device", str(scenario), "--group", "porch") for _ in "ab")]
        assert aggregator.wait(90) == 0, [path.read_text()[-2000:] for path in scenario.parent.glob("*.log")]
    finally:
        for part in reversed(parts):
            part.terminate()
        for part in parts:
            part.wait(20)
    found = report_of(scenario.parent / "runs" / "r")
    assert (found.outcomes.committed, found.outcomes.is_finished) == (4, True)
    assert {event.kind for event in found.events} == {"partition", "broker_restart", "aggregator_restart"}
    assert [event.failed for event in found.events] == ["", "", ""]
    assert set(found.outcomes.by_class) == {"pi-4"}
    assert found.verdict is not None
    assert found.verdict.violations == []
    assert found.verdict.accepted >= 4
    assert set(found.bytes_up) == {"porch-1", "porch-2"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["device", "{scenario}", "--group", "attic"], "--group 'attic': no such group"),
        (["aggregator", "nowhere.toml"], "nowhere.toml: cannot be read"),
    ],
)
def test_mistake_ends_a_part_with_2(scenario: Path, arguments: list[str], says: str) -> None:
    """What the operator wrote cannot work: the part says what, and leaves nothing behind."""
    part = started(scenario, 1, *(argument.format(scenario=scenario) for argument in arguments))
    assert part.wait(30) == 2
    assert says in next(scenario.parent.glob("*.log")).read_text()
    assert not (scenario.parent / "runs").exists()
