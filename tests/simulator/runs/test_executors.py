from pathlib import Path

import pytest

from shared.task import Arrays, Client, Trained, Work
from simulator.runs.executors import Inline, Processes
from simulator.scenario import Scenario
from tests.integration.linear import LinearTask
from tests.simulator.runs.fleets import a_scenario, simulated, written
from tests.simulator.runs.rendezvous import Rendezvous

ROOT = Path(__file__).parents[3]


def test_processes_and_inline_agree_to_the_bit_whatever_befalls_the_fleet(tmp_path: Path) -> None:
    """Model, history and report are equal in a fleet with dropouts, crashes, a partition and restarts."""
    scenario = a_scenario()
    there, here = tmp_path / "processes", tmp_path / "inline"
    with_processes = Processes(scenario.run["task"], ROOT, n_workers=2)
    came, report = simulated(scenario, there, executor=with_processes)
    assert came.cause == "rounds"
    assert came.struck.keys() >= {"dropout", "crash", "reboot", "absence", "partition", "broker_restart"}
    assert came.struck["aggregator_restart"] == 1
    assert written(there, report) == written(here, simulated(scenario, here)[1])


def test_trainings_that_overlap_in_virtual_time_run_at_the_same_time(tmp_path: Path) -> None:
    """Two devices whose trainings wait for each other both finish: two workers were busy at once."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    scenario = Scenario.model_validate(
        {
            "run": {
                "task": "tests.simulator.runs.rendezvous:Rendezvous",
                "run": "r",
                "round": {"report_goal": 2, "over_selection": 1.0, "quorum": 1.0},
                "training": {"options": {"folder": str(meeting)}},
                "stop": {"rounds": 2, "metric": "loss"},
                "output": {"plot": False},
            },
            "classes": {"slow": {"seconds_per_batch": 5}},
            "devices": {"slow": {"count": 2}},
        }
    )
    executor = Processes(scenario.run["task"], ROOT, n_workers=2)
    came, report = simulated(scenario, tmp_path, task=Rendezvous(), executor=executor)
    assert came.cause == "rounds"
    assert report.fields["totals"]["outcomes"]["failed"] == 0
    assert report.fields["totals"]["leases"]["accepted"] == 4


class _Fails(LinearTask):
    """Fails on one device, as a user's task may."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        work.progress(1, 10)
        if client.id == "a-1":
            raise _OddError("no such luck")
        return super().train(parameters, work, client)


class _OddError(Exception):
    """An error of the user's own."""


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_failure_of_a_task_is_reported_by_its_own_name(tmp_path: Path, kind: str) -> None:
    """A task that raises fails its lease, after the batches it named, wherever it is computed."""
    spec = "tests.simulator.runs.test_executors:_Fails"
    scenario = a_scenario(devices={"a": {"count": 3}}, run={"task": spec, "stop": {"rounds": 1}, "round": _ALL})
    executor = Inline(_Fails()) if kind == "inline" else Processes(spec, ROOT, n_workers=1)
    came, report = simulated(scenario, tmp_path, task=_Fails(), executor=executor)
    assert came.cause == "rounds"
    assert report.fields["totals"]["outcomes"]["failed"] == 1
    assert report.fields["totals"]["outcomes"]["accepted"] == 2


_ALL = {"report_goal": 2, "over_selection": 1.5}
