"""Whole runs in every mode, in virtual time: real services on a broker in memory."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.evaluation import TaskEvaluator
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore
from aggregator.opening import first_state
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, CommitRecord, Record
from aggregator.results import RunResult
from shared.blocking import Lane, at_once
from simulator.fleet import AGGREGATOR, Fleet
from simulator.inline_blocking import DelayRange
from tests.aggregator.exactly_once import Point, watch
from tests.integration.linear import LinearTask, some_settings

QUICK: Mapping[Lane, DelayRange] = {Lane.TRAINING: (0.5, 1.0)}
SLOW: Mapping[Lane, DelayRange] = {Lane.TRAINING: (10.0, 20.0)}
MODES: Mapping[str, dict[str, Any]] = {
    "sync": {"mode": "sync"},
    "semi-sync": {"mode": "semi-sync"},
    "async": {"mode": "async", "over_selection": None, "quorum": None, "report_goal": 3, "outstanding": 6},
    "async, goal 1": {"mode": "async", "over_selection": None, "quorum": None, "report_goal": 1, "outstanding": 4},
    "between": {"outstanding": 8, "over_selection": None, "max_staleness": 2},
}


def settings_of(folder: Path, mode: str, rounds: int, **tables: Any) -> Settings:
    """Return settings of a run in a mode."""
    training = {"epochs": 1, "learning_rate": 0.02}
    return some_settings(folder, round=MODES[mode], training=training, stop={"rounds": rounds}, **tables)


def has_version(fleet: Fleet, version: int) -> bool:
    """Whether the aggregator says that it has this version, or a later one."""
    return fleet.status is not None and fleet.status.version >= version


async def a_run(settings: Settings, folder: Path, *, kill_at: Sequence[int] = ()) -> tuple[RunResult, list[Record]]:
    """Let ten devices, two of them slow, learn to the end; the aggregator is killed when it has these versions."""
    async with Fleet(settings, LinearTask(), folder / "devices") as fleet:
        fleet.start_aggregator()
        for i in range(10):
            fleet.add(f"d{i}", delays=SLOW if i < 2 else QUICK)
        for version in kill_at:
            await fleet.until(partial(has_version, fleet, version))
            await fleet.kill(AGGREGATOR)
            fleet.start_aggregator()
        result = await fleet.result()
    return result, list(read_journal(result.folder / "journal.sqlite"))


async def replayed(settings: Settings, rows: Sequence[Record], folder: Path) -> bytes:
    """Return the final model as the rows alone yield it."""
    state = await first_state(settings, TaskEvaluator(LinearTask(), at_once))
    aggregation = Aggregation(settings, state, PartFiles(folder / "u"), ModelStore(folder / "v"), at_once)
    for row in rows:
        if isinstance(row, CommitRecord):
            counted = [each for each in rows if isinstance(each, AcceptRecord) and each.into == row.version]
            aggregation.state = await aggregation.make(row.version, row.round_id, counted)
    return aggregation.state.parameters.tobytes()


@pytest.mark.parametrize("mode", MODES)
async def test_run_learns_and_its_model_is_what_its_rows_yield(tmp_path: Path, mode: str) -> None:
    """In every mode: to the bit, no lease and no (device, version) twice, no staleness over what is allowed."""
    rounds = 12 if mode == "async, goal 1" else 6
    settings = settings_of(tmp_path, mode, rounds)
    result, rows = await a_run(settings, tmp_path)
    assert (result.version, result.cause) == (rounds, "rounds")
    final = load_file(result.model)["weights"]
    assert final.tobytes() == await replayed(settings, rows, tmp_path / "replay")
    accepted = [row for row in rows if isinstance(row, AcceptRecord)]
    assert len({row.lease for row in accepted}) == len({(row.device, row.base_version) for row in accepted})
    assert len({row.lease for row in accepted}) == len(accepted)
    late = [row.into - 1 - row.base_version for row in accepted]
    assert max(late) <= settings.round.max_staleness
    assert [row.discount for row in accepted] == [pytest.approx((1 + each) ** -0.5) for each in late]
    if settings.round.outstanding is not None:
        assert any(late)
    truth = np.random.default_rng(7).normal(size=len(final))
    first = np.random.default_rng(settings.seed).normal(size=len(final))
    assert np.linalg.norm(final - truth) < np.linalg.norm(first - truth)


@pytest.mark.parametrize("mode", ["semi-sync", "async"])
async def test_killed_aggregator_goes_on_to_what_its_rows_yield(tmp_path: Path, mode: str) -> None:
    """Killed twice, with updates for two versions accepted in between: folded again, the same bits."""
    settings = settings_of(tmp_path, mode, 6)
    result, rows = await a_run(settings, tmp_path, kill_at=(2, 4))
    assert result.version == 6
    assert load_file(result.model)["weights"].tobytes() == await replayed(settings, rows, tmp_path / "replay")


async def test_slow_device_keeps_its_lease_when_its_model_has_left_the_broker(tmp_path: Path) -> None:
    """It has fetched version 0, trains for longer than eight versions take, and counts."""
    settings = settings_of(tmp_path, "async, goal 1", 30)
    _, rows = await a_run(settings, tmp_path)
    late = [row for row in rows if isinstance(row, AcceptRecord) and row.device in ("d0", "d1")]
    assert max(row.into - 1 - row.base_version for row in late) > 8


@pytest.mark.parametrize("point", Point)
async def test_aggregator_killed_between_two_steps_of_counting_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: Point
) -> None:
    """While others work on for the version after: nobody twice, nobody not at all, the same bits."""
    settings = settings_of(tmp_path, "async", 4)
    reached = asyncio.Event()

    async def stay() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    async with Fleet(settings, LinearTask(), tmp_path / "devices") as fleet:
        fleet.start_aggregator()
        for i in range(10):
            fleet.add(f"d{i}", delays=QUICK)
        await fleet.until(partial(has_version, fleet, 1))
        watch(point, stay, monkeypatch.setattr)
        await reached.wait()
        await asyncio.sleep(2.0)  # what is accepted meanwhile is for the version after, or waits for its row
        await fleet.kill(AGGREGATOR)
        fleet.start_aggregator()
        result = await fleet.result()
    rows = list(read_journal(result.folder / "journal.sqlite"))
    accepted = [row for row in rows if isinstance(row, AcceptRecord)]
    assert len({row.lease for row in accepted}) == len({(row.device, row.base_version) for row in accepted})
    assert len({row.lease for row in accepted}) == len(accepted) == result.counts["accepted"]
    assert load_file(result.model)["weights"].tobytes() == await replayed(settings, rows, tmp_path / "replay")


async def test_run_goes_on_in_another_mode(tmp_path: Path) -> None:
    """Begun in synchronous rounds, then asynchronous, then synchronous again; what was given out keeps its terms."""
    settings = settings_of(tmp_path, "sync", 8)
    others = settings_of(tmp_path, "async", 8), settings
    async with Fleet(settings, LinearTask(), tmp_path / "devices") as fleet:
        fleet.start_aggregator()
        for i in range(10):
            fleet.add(f"d{i}", delays=QUICK)
        for version, other in zip((2, 5), others, strict=True):
            await fleet.until(partial(has_version, fleet, version))
            await fleet.kill(AGGREGATOR)
            fleet.start_aggregator(other)
        result = await fleet.result()
    rows = list(read_journal(result.folder / "journal.sqlite"))
    assert result.version == 8
    late = [row for row in rows if isinstance(row, AcceptRecord) and row.discount < 1]
    assert late
    assert load_file(result.model)["weights"].tobytes() == await replayed(settings, rows, tmp_path / "replay")
