"""Whole runs with server optimizers that keep something: killed and gone on with, and stopped by what is not finite."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.events import ResumeAsked
from aggregator.explain import explain
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, CommitRecord
from aggregator.selection import seed_of
from shared.blocking import at_once
from shared.parameters import ParameterSpec
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings

pytestmark = pytest.mark.virtual_time

ADAM = {"name": "adam", "learning_rate": 0.1}
KEPT = {"fedavgm": ["v"], "adagrad": ["m", "v"], "adam": ["m", "v"], "yogi": ["m", "v"]}
OWN = '''
import numpy as np

class Explodes:
    """Steps as SGD does; the third step of a life that begins with none is NaN, unless the rate is small."""

    def init(self, spec):
        return {"n": np.zeros((), np.float32)}

    def step(self, state, parameters, delta, spec, learning_rate):
        moved = (parameters + learning_rate * delta).astype(np.float32)
        if state["n"] == 2 and learning_rate > 0.5:
            moved[0] = np.nan
        return moved, {"n": state["n"] + np.float32(1)}

optimizer = Explodes()
'''


@pytest.fixture(autouse=True)
async def _without_debug() -> None:
    """Asyncio's debug mode would take four times as long."""
    asyncio.get_running_loop().set_debug(False)


def a_run(folder: Path, optimizer: dict[str, Any], **tables: Any) -> Settings:
    """Return settings of five versions of three devices."""
    knobs = {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0}
    return some_settings(
        folder, **{"round": knobs, "stop": {"rounds": 5}, "server": {"optimizer": optimizer}, **tables}
    )


def versions(settings: Settings) -> ModelStore:
    """Return what lies on disk."""
    return ModelStore(settings.output.folder / "test" / "versions")


def bits(state: ServerState) -> dict[str, bytes]:
    """Return a version's model and what the optimizer keeps with it."""
    return {"model": state.parameters.tobytes(), **{key: array.tobytes() for key, array in state.optimizer.items()}}


async def replayed(settings: Settings, scratch: Path) -> dict[str, bytes]:
    """Return the bits that the journal's rows yield in one life, each version made anew."""
    initial = LinearTask().initial_parameters(seed_of(settings.seed, "model") % 2**31)
    spec = ParameterSpec.of(initial)
    first = ServerState(version=0, round_id=0, spec=spec, parameters=spec.flatten(initial.parameters))
    rows = list(read_journal(settings.output.folder / "test" / "journal.sqlite"))
    aggregation = Aggregation(settings, first, PartFiles(scratch / "u"), ModelStore(scratch / "v"), at_once)
    for commit in (row for row in rows if isinstance(row, CommitRecord)):
        counted = [row for row in rows if isinstance(row, AcceptRecord) and row.into == commit.version]
        await aggregation.write(await aggregation.make(commit.version, commit.round_id, counted))
    return bits(aggregation.state)


@pytest.mark.parametrize("optimizer", [ADAM, {"name": "yogi"}, {"name": "adagrad"}, {"name": "fedavgm"}])
async def test_run_that_was_killed_steps_on_with_what_its_optimizer_has_kept(
    tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    """Killed four times: model and state of the last version are, to the bit, those of the same rows in one life."""
    settings, rng = a_run(tmp_path, optimizer), Random(5)
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(3):
            fleet.add(f"d{i}")
        for _ in range(4):
            await asyncio.sleep(rng.uniform(0.5, 4.0))
            await fleet.kill(AGGREGATOR)
            fleet.start_aggregator()
        result = await fleet.result()
    last = versions(settings).load(5)
    assert result.version == 5
    assert set(last.optimizer) == {f"step/{optimizer['name']}/{key}" for key in KEPT[optimizer["name"]]}
    assert bits(last) == await replayed(settings, tmp_path / "scratch")


async def test_optimizer_that_steps_out_of_the_finite_pauses_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own: the cause names it, the parameter and what to lower; the model stays, and a lower rate goes on."""
    (tmp_path / "exploding_optimizer.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    optimizer = {"name": "exploding_optimizer:optimizer"}
    settings = a_run(tmp_path, optimizer)
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(3):
            fleet.add(f"d{i}")
        await fleet.until(lambda: fleet.status is not None and fleet.status.phase == "paused")
        assert fleet.status is not None
        (cause,) = fleet.status.causes
        for words in ("'exploding_optimizer:optimizer'", "'weights' has NaN", "lower server.optimizer.learning_rate"):
            assert words in cause
        before = bits(versions(settings).load(2))
        assert fleet.aggregator is not None
        fleet.aggregator.tell(ResumeAsked())  # nothing has changed: it pauses again
        await asyncio.sleep(60.0)
        assert (fleet.status.phase, fleet.status.version) == ("paused", 2)
        assert versions(settings).versions()[-1] == 2
        assert bits(versions(settings).load(2)) == before
        told = explain(settings.output.folder / "test")
        assert list(told.pauses) == ["error"]
        assert told.rounds[-1].cause.startswith("stands still, error: server optimizer 'exploding_optimizer:")
        await fleet.kill(AGGREGATOR)
        fleet.start_aggregator(a_run(tmp_path, {**optimizer, "learning_rate": 0.5}))
        result = await fleet.result()
    assert result.version == 5
    assert not explain(settings.output.folder / "test").pauses
    assert versions(settings).load(5).optimizer["step/exploding_optimizer:optimizer/n"] == 5
