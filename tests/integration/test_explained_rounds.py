"""What `explain` says of a real run equals the journal's own books, with the view of times or without it."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from aggregator.__main__ import app
from aggregator.explain import explain
from aggregator.explanation import STATES, ExplainedRun
from aggregator.fairness import fairness_of, jain_index
from aggregator.journal import read_journal
from aggregator.records import AcceptRecord, LeaseRecord, OutcomeRecord
from shared.blocking import Lane
from shared.messages import Kind
from shared.task import Arrays, Client, Trained, Work
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings


async def _disturbed_run(folder: Path, seed: int) -> Path:
    """Run ten devices, kill and start devices and the aggregator at drawn instants; return the run's folder."""
    rng, settings = Random(seed), some_settings(folder, stop={"rounds": 4}, evaluation={"federated_every": 2})
    devices = [f"d{i}" for i in range(10)]
    async with Fleet(settings, LinearTask(5000), folder, seed=seed) as fleet:
        fleet.start_aggregator()
        for device in devices:
            fleet.add(device, delays={Lane.TRAINING: (3.0, 9.0)})
        for _ in range(8):
            await fleet.until(lambda: fleet.status is not None)
            for _ in range(rng.randrange(20)):
                await fleet.until(lambda: True)
            name = rng.choice([*devices, AGGREGATOR])
            if not fleet.is_running(name):
                continue
            await fleet.kill(name)
            if name == AGGREGATOR:
                fleet.start_aggregator()
            elif rng.random() < 0.7:
                fleet.start(name)
        await fleet.result()
    return settings.output.folder / "test"


def _check_against_the_journal(run: ExplainedRun, folder: Path) -> None:
    rows = list(read_journal(folder / "journal.sqlite"))
    given = {row.lease: row for row in rows if isinstance(row, LeaseRecord) and row.kind is Kind.TRAIN}
    accepted = {row.lease for row in rows if isinstance(row, AcceptRecord)}
    outcomes = {row.lease: row for row in rows if isinstance(row, OutcomeRecord) and row.lease in given}
    assert {lease.lease for each in run.rounds for lease in each.leases} == given.keys()
    for each in run.rounds:
        mine = {name for name, row in given.items() if row.round_id == each.round_id}
        assert sum(each.counts[state] for state in STATES) == each.n_selected == len(mine)
        assert each.counts["accepted"] + each.counts["late"] == len(mine & accepted)
        assert each.counts["open"] == len(mine - accepted - outcomes.keys())
        expected = Counter("lost" if outcomes[n].is_lost else str(outcomes[n].outcome) for n in mine & outcomes.keys())
        for state in ("discarded", "rejected", "failed", "cancelled", "lost"):
            assert each.counts[state] == expected[state]
        for lease in each.leases:
            assert lease.cause
            assert lease.codec == given[lease.lease].codec
            if lease.time is not None and lease.seconds is not None:
                assert lease.time.total == pytest.approx(lease.seconds, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
async def test_explanation_equals_the_journal_whatever_happens(seed: int, tmp_path: Path) -> None:
    """Devices and the aggregator die: sums are the journal's, and times sum to each lease's life."""
    folder = await _disturbed_run(tmp_path, seed)
    run = explain(folder)
    assert run.finished_by == "rounds"
    _check_against_the_journal(run, folder)
    assert any(lease.time for each in run.rounds for lease in each.leases)
    (folder / "timeline.jsonl").unlink()
    alone = explain(folder)
    _check_against_the_journal(alone, folder)
    assert [each.counts for each in alone.rounds] == [each.counts for each in run.rounds]
    report = fairness_of(run)
    assert sum(each.weight_share for each in report.classes) == pytest.approx(1.0)
    assert sum(each.n_selected for each in report.classes) == sum(each.n_selected for each in run.rounds)
    assert report.metric == "accuracy"
    _commands_work(folder)


def _commands_work(folder: Path) -> None:
    def said(*words: str, code: int = 0) -> str:
        ended = CliRunner().invoke(app, ["explain", str(folder), *words])
        assert ended.exit_code == code, ended.output
        return ended.output

    assert "committed" in said()
    assert "selected" in said("1")
    assert "counted for version" in said("--device", explain(folder).rounds[0].slowest or "")
    assert "Jain's index" in said("--fairness")
    facts = json.loads(said("1", "--json"))
    assert [each["round_id"] for each in facts["rounds"]] == [1]
    assert len(facts["rounds"][0]["leases"]) == facts["rounds"][0]["n_selected"]
    assert "there are rounds 1 to" in said("99", code=2)
    assert "no round concerns" in said("--device", "nobody", code=2)
    assert "add --fairness" in said("--plot", "x.png", code=2)


def test_no_run_says_what_to_name(tmp_path: Path) -> None:
    """A path that is neither a TOML nor a run's folder."""
    ended = CliRunner().invoke(app, ["explain", str(tmp_path / "none")])
    assert (ended.exit_code, "name the run's TOML" in ended.output) == (2, True)


async def test_robust_rule_is_named_where_it_may_have_left_out_what_counted(tmp_path: Path) -> None:
    """Of the run, of a round, and of who takes part."""
    settings = some_settings(tmp_path, stop={"rounds": 1}, server={"rule": "median"})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(6):
            fleet.add(f"d{i}")
        await fleet.result()
    folder = settings.output.folder / "test"
    for words in ([], ["1"], ["--fairness"]):
        shown = CliRunner().invoke(app, ["explain", str(folder), *words], env={"COLUMNS": "200"})
        assert "given to the rule median" in shown.output


def test_jain_index_by_hand() -> None:
    """(3, 3) is 1, (3, 0) is a half, of nothing there is none."""
    assert jain_index([3.0, 3.0]) == 1.0
    assert jain_index([3.0], 2) == 0.5
    assert jain_index([]) is None


class _Refuses(LinearTask):
    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        raise ZeroDivisionError("the device's own words stay on the device")


@pytest.mark.parametrize(
    ("task", "changes", "why"),
    [
        (_Refuses(), {}, "its task raised an error: ZeroDivisionError"),
        (LinearTask(), {"server": {"max_norm": 1e-9}}, "its update was larger than server.max_norm"),
        (LinearTask(), {"training": {"algorithm": "qfedavg", "q": 1.0}}, "its task returned what is no result"),
    ],
)
async def test_round_of_which_nothing_counted_says_why_in_the_table_and_in_json(
    tmp_path: Path, task: LinearTask, changes: dict[str, Any], why: str
) -> None:
    """The error's name, or the check: by how many leases of the round, once for all of them."""
    settings = some_settings(tmp_path, **changes)
    async with Fleet(settings, task, tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(6):
            fleet.add(f"d{i}")
        await fleet.until(lambda: fleet.status and fleet.status.round > 1)
    folder = settings.output.folder / "test"
    first = explain(folder).rounds[0]
    n = first.counts["failed"] + first.counts["rejected"]
    assert n > 0
    assert dict(first.failures) == {why: n}
    shown = CliRunner().invoke(app, ["explain", str(folder)], env={"COLUMNS": "400"})
    assert f"{n} x {why}" in shown.output
    printed = CliRunner().invoke(app, ["explain", str(folder), "--json"])
    assert json.loads(printed.stdout)["rounds"][0]["failures"] == {why: n}
