from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aggregator.explain import explain
from shared.task import Arrays, Client, Evaluated, Ratio, Trained, Work
from simulator.runs.executors import Inline, Processes
from tests.integration.linear import LinearTask
from tests.simulator.runs.fleets import a_scenario, simulated, written

ROOT = Path(__file__).parents[3]


class Counting(LinearTask):
    """Counts on its client how often its training counted, and evaluates to that."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        n_before = work.state.get("n", np.zeros(1))
        return replace(super().train(parameters, work, client), state={"n": n_before + 1})

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`."""
        return Evaluated(num_examples=2, metrics={"loss": 0.5, "n": Ratio(float(state.get("n", np.zeros(1))[0]), 1)})


@pytest.mark.parametrize("kind", ["inline", "processes"])
def test_each_of_two_calls_within_one_work_gets_its_own_answer_and_time(tmp_path: Path, kind: str) -> None:
    """An evaluation asks the task for the global model, then for the client's own: two batches, two answers."""
    spec = "tests.simulator.runs.test_pace:Counting"
    scenario = a_scenario(
        classes={"board": {"seconds_per_batch": 1}},
        devices={"board": {"count": 2}},
        run={
            "task": spec,
            "round": {"report_goal": 2, "over_selection": 1.0, "quorum": 1.0},
            "stop": {"rounds": 4, "metric": "personal_n"},
            "evaluation": {"at_end": True},
        },
    )
    executor = Inline(Counting()) if kind == "inline" else Processes(spec, ROOT, n_workers=1)
    came, report = simulated(scenario, tmp_path / kind, task=Counting(), executor=executor)
    assert came.cause == "rounds"
    (first, second) = explain(tmp_path / kind / "r").evaluations
    assert {first.device, second.device} == {"board-1", "board-2"}
    for each in (first, second):
        metrics = dict(each.metrics)
        assert (metrics["n"], metrics["personal_n"]) == ((0.0, 1.0), (4.0, 1.0))
    assert report.fields["on_devices"]["metrics"]["personal_n"]["p10"] == 4.0
    assert report.fields["metric"]["last"] == 4.0
    (common, own) = [line for line in report.lines() if line.startswith("Tested:")]
    assert common == "Tested:   n 0.0000 of version 4 on 2 devices, median 0.0000, 10th percentile 0.0000"
    assert own.startswith("Tested:   personal_n 4.0000 ")
    assert report.fields["totals"]["device_seconds"]["training"] == pytest.approx(2 * (4 * 20 + 2))
    there = written(tmp_path / kind, report)
    assert there == written(tmp_path / "again", simulated(scenario, tmp_path / "again", task=Counting())[1])
