from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError, FederationError
from shared.task import Arrays, Client, Trained, Work
from simulator.runs.simulation import LIMIT
from simulator.scenario import Scenario
from simulator.scenarios.traces import Trace
from tests.integration.linear import LinearTask
from tests.simulator.runs.fleets import a_scenario, simulated, written


def test_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    """Model, history and report are a function of scenario and seed."""
    first = written(tmp_path / "1", simulated(a_scenario(), tmp_path / "1")[1])
    assert first == written(tmp_path / "2", simulated(a_scenario(), tmp_path / "2")[1])
    other = written(tmp_path / "3", simulated(a_scenario(seed=4), tmp_path / "3")[1])
    assert first[0] != other[0]
    assert first[2]["virtual_s"] != other[2]["virtual_s"]


def _one_class(seconds_per_batch: float, **changes: Any) -> Scenario:
    return a_scenario(
        classes={"board": {"seconds_per_batch": seconds_per_batch}},
        devices={"board": {"count": 2, **changes.pop("group", {})}},
        run={"round": {"report_goal": 2, "over_selection": 1.0, "quorum": 1.0}, "stop": {"rounds": 2}, **changes},
    )


def test_training_takes_its_batches_in_virtual_time(tmp_path: Path) -> None:
    """20 batches of 3 s are a minute, whatever this machine takes; the device says so in its report."""
    came, report = simulated(_one_class(3), tmp_path)
    assert all(60 <= each.seconds < 75 for each in report.rounds)
    assert report.fields["totals"]["device_seconds"]["training"] == pytest.approx(4 * 60)
    assert came.n_fits == 4


def test_training_ends_when_its_seconds_are_over(tmp_path: Path) -> None:
    """With 10 s to train and 3 s a batch the fourth batch is the last, and the task is told so."""
    report = simulated(_one_class(3, training={"max_seconds": 10}), tmp_path)[1]
    assert report.fields["totals"]["device_seconds"]["training"] == pytest.approx(4 * 12)
    assert all(12 <= each.seconds < 27 for each in report.rounds)


def test_device_that_is_slow_and_makes_progress_keeps_its_lease(tmp_path: Path) -> None:
    """Twenty batches of 40 s outlast a lease of 120 s many times; none expires, for progress shows."""
    slow = _one_class(40, round={"lease_s": 120, "window_s": {"min": 2000, "max": 2000}, "report_goal": 2})
    report = simulated(slow, tmp_path)[1]
    assert report.fields["totals"]["outcomes"]["expired"] == 0
    assert report.fields["totals"]["leases"] == {
        **dict.fromkeys(("leases", "accepted"), 4),
        **dict.fromkeys(("too_late", "rejected", "lost"), 0),
    }


def test_device_is_gone_outside_of_its_hours_and_its_work_with_it(tmp_path: Path) -> None:
    """Two devices that are there for an hour at one in the morning do nothing before it."""
    came, report = simulated(_one_class(1, group={"availability": {"hours": [[1, 2]]}}), tmp_path)
    assert came.virtual_s > 3600
    assert report.fields["rounds"][0]["at_s"] > 3600
    assert report.fields["totals"]["device_seconds"]["on"] < 2 * 3600


def test_device_out_of_reach_works_on_and_reports_when_it_is_back(tmp_path: Path) -> None:
    """A trace takes the link away in the midst of a training; what was trained is not lost."""
    scenario = _one_class(3, group={"availability": {"trace": "t.csv"}}, stop={"rounds": 1, "metric": "loss"})
    trace = Trace("a", ((0.0, 30.0), (200.0, 10_000.0)), 10_000.0)
    came, report = simulated(scenario, tmp_path, traces={Path("t.csv"): (trace,)})
    assert came.n_fits == 2
    assert 200 <= report.fields["rounds"][0]["at_s"] < 600  # it tries to connect every few minutes by then
    assert report.fields["totals"]["leases"]["accepted"] == 2


def test_dropout_ends_a_training_and_the_device_comes_back(tmp_path: Path) -> None:
    """A device that drops out has spent less than a training, and takes part again after its time."""
    group = {"faults": {"dropout": 0.5, "down_s": 20}}
    came, report = simulated(_one_class(3, group=group, stop={"rounds": 4, "metric": "loss"}), tmp_path)
    n = came.struck["dropout"]
    assert n > 0
    assert came.cause == "rounds"
    trainings = report.fields["totals"]["device_seconds"]["training"]
    assert 8 * 60 < trainings < (8 + n) * 60


def test_device_refuses_while_its_class_has_too_little_memory(tmp_path: Path) -> None:
    """Eligibility is decided on the device, by the memory of its class: the small one is never asked."""
    needs = {"min_free_memory_mb": 1000}
    scenario = a_scenario(
        devices={
            "pi-4": {"count": 2, "eligibility": needs},
            "pi-zero-2": {"count": 2, "eligibility": needs},
        },
        run={"round": {"report_goal": 2}, "stop": {"rounds": 2}},
    )
    report = simulated(scenario, tmp_path)[1]
    classes = report.fields["classes"]
    assert classes["pi-4"]["accepted"] == 4
    assert "Left out: 2 devices for memory, at the end" in report.lines()
    assert classes["pi-zero-2"]["leases"] == 0


def test_run_whose_time_is_up_reports_what_there_is(tmp_path: Path) -> None:
    """The limit is no error of ours: the rounds so far are in the report."""
    scenario = _one_class(3, stop={"rounds": 1000, "metric": "loss"}).model_copy(update={"virtual_limit_s": 200.0})
    came, report = simulated(scenario, tmp_path)
    assert (came.cause, came.result) == (LIMIT, None)
    assert 1 <= len(report.rounds) <= 3
    assert report.fields["waits_for"] == came.waits_for
    assert "Waiting:  reports of round" in "\n".join(report.lines())


def test_report_counts_updates_by_codec_and_says_so_where_they_are_mixed(tmp_path: Path) -> None:
    """Who reads that one round took int8 and one bit need not look at every lease."""
    report = simulated(_one_class(3), tmp_path)[1]
    assert report.fields["codecs"] == {"int8": report.fields["totals"]["leases"]["accepted"]}
    mixed = replace(report, fields={**report.fields, "codecs": {"int8": 40, "one-bit": 10}})
    assert "Codecs:   40 int8, 10 one-bit" in mixed.lines()
    assert not [line for line in report.lines() if line.startswith("Codecs:")]


def test_run_that_rejects_everything_says_for_what(tmp_path: Path) -> None:
    """With a norm that no update is below nothing counts; what was rejected is not called lost."""
    scenario = _one_class(3, server={"max_norm": 1e-9}).model_copy(update={"virtual_limit_s": 200.0})
    came, report = simulated(scenario, tmp_path)
    leases = report.fields["totals"]["leases"]
    assert came.cause == LIMIT
    assert leases["rejected"] > 0
    assert (leases["accepted"], leases["lost"]) == (0, leases["leases"] - leases["rejected"])
    assert report.fields["reasons"] == {"rejected": {"norm": leases["rejected"]}}
    said = report.lines()
    assert f"Rejected: norm {leases['rejected']}" in said
    assert any(f"{leases['rejected']} rejected" in line for line in said)


@pytest.mark.parametrize(
    ("training", "cause"),
    [({"algorithm": "scaffold"}, "keep no state: 2"), ({"codec": "top-1-percent"}, "refused for codec: 2")],
)
def test_run_that_waits_for_devices_says_what_keeps_those_out_that_are_there(
    tmp_path: Path, training: dict[str, str], cause: str
) -> None:
    """None of the two may keep what the algorithm, or the codec, needs."""
    scenario = _one_class(3, group={"keeps_state": False}, training=training)
    came, report = simulated(scenario.model_copy(update={"virtual_limit_s": 200.0}), tmp_path)
    assert came.waits_for == f"devices, 0 of 2 are at hand; {cause}"
    assert f"Waiting:  {came.waits_for}" in report.lines()
    assert report.fields["totals"]["leases"]["leases"] == 0


def test_one_that_is_killed_in_its_upload_is_never_back(tmp_path: Path) -> None:
    """`killed_in_upload`, as in a rehearsal: the rest of the fleet goes on."""
    scenario = a_scenario(
        devices={"a": {"count": 3}, "doomed": {"killed_in_upload": True, "link": {"up_bytes_per_s": 200}}},
        run={"round": {"report_goal": 4, "quorum": 0.5, "over_selection": 1.0}, "stop": {"rounds": 2}},
    )
    came, report = simulated(scenario, tmp_path)
    assert came.struck["killed_in_upload"] == 1
    assert report.fields["classes"]["doomed"]["accepted"] == 0


class _Unsayable(LinearTask):
    def initial_parameters(self, seed: int) -> Any:
        raise ValueError("no model today")


def test_task_without_a_model_is_the_operators_mistake(tmp_path: Path) -> None:
    """It is said before anybody is switched on."""
    with pytest.raises(ConfigError, match="no model today"):
        simulated(_one_class(1), tmp_path, task=_Unsayable())


class _Hasty(LinearTask):
    """Calls no `progress` at all."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        return Trained(parameters=parameters, num_examples=1, n_steps=1)


def test_task_that_names_no_batches_takes_one(tmp_path: Path) -> None:
    """Nobody can know better."""
    report = simulated(_one_class(3), tmp_path, task=_Hasty())[1]
    assert report.fields["totals"]["device_seconds"]["training"] == pytest.approx(4 * 3)


class _NoRule:
    """A selection rule of a user's own that cannot be asked."""

    def draw(self, candidates: object, size: int, draw: object) -> list[str]:
        """See `SelectionRule`."""
        raise ValueError("no such luck")


no_rule = _NoRule()


def test_run_that_pauses_for_an_error_ends_with_its_cause(tmp_path: Path) -> None:
    """Nobody resumes a simulated run: it does not idle to its limit."""
    scenario = _one_class(2, selection={"rule": "tests.simulator.runs.test_simulation:no_rule"})
    with pytest.raises(FederationError, match=r"paused at .*no such luck"):
        simulated(scenario, tmp_path)
