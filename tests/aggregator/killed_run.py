"""A run that was killed in the middle, with all that lay on its disk; and what the rows of any journal yield."""

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, CommitRecord, LeaseRecord, Record, VoidRecord
from aggregator.selection import seed_of
from aggregator.service import RunResult
from shared.blocking import Lane, at_once
from shared.codecs import codec_named
from shared.errors import leaf_of
from shared.messages import WorkOrder
from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import Client, ClientId, Work
from simulator.fleet import AGGREGATOR, Fleet
from simulator.virtual_time import run_in_virtual_time
from tests.integration.linear import LinearTask, some_settings

__all__ = ["KilledRun", "a_killed_run", "go_on", "inline_only", "replayed"]

DEVICES = [f"d{i}" for i in range(6)]
SLOW = {Lane.TRAINING: (30.0, 40.0)}
RUN = Path("runs") / "test"
LATER_S = 1000.0
"""After it was killed a run goes on: a clock that stood still would give it an epoch that devices have seen."""


@dataclass(frozen=True, slots=True)
class KilledRun:
    """Where it lies, with `devices/` beside `runs/test/`, and what its journal says.

    Args:
        folder: of everything.
        settings: of its second life.
        rows: every row that was durable.
    """

    folder: Path
    settings: Settings
    rows: tuple[Record, ...]

    def copy(self, folder: Path) -> Settings:
        """Copy it, and return the settings with which it goes on there."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return self.settings.model_copy(
            update={"output": self.settings.output.model_copy(update={"folder": folder / "runs"})}
        )


def inline_only(folder: Path, **tables: Any) -> Settings:
    """Return settings of a run whose updates all come inline."""
    knobs = {"report_goal": 4, "over_selection": 1.5, "quorum": 0.75, "window_s": {"min": 60, "max": 120}}
    return some_settings(folder, **{"round": knobs, "stop": {"rounds": 5}, **tables})


def a_killed_run(folder: Path, *, n_lives: int = 2) -> KilledRun:
    """Return a run of two lives: three versions of inline updates, then updates in files; killed with three accepted.

    The rows of the first life are in the database, those of the second in its log.

    Args:
        folder: where it lies.
        n_lives: 1 leaves out the second.
    """
    settings = inline_only(folder)
    in_files = inline_only(folder, transfer={"inline_bytes": 0}) if n_lives == 2 else None
    with structlog.testing.capture_logs():
        run_in_virtual_time(_lives(folder, settings, in_files), limit_s=10_000.0)
    return KilledRun(folder, in_files or settings, tuple(read_journal(folder / RUN / "journal.sqlite")))


async def _lives(folder: Path, settings: Settings, in_files: Settings | None) -> None:
    async with Fleet(settings, LinearTask(), folder / "devices") as fleet:
        fleet.start_aggregator()
        for i, device in enumerate(DEVICES):
            fleet.add(device, delays=SLOW if i >= 3 else None)
        await fleet.until(lambda: fleet.status is not None and fleet.status.version >= 3)
        if in_files is not None:
            await fleet.kill(AGGREGATOR)
            with closing(sqlite3.connect(folder / RUN / "journal.sqlite")) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            fleet.start_aggregator(in_files)
            await fleet.until(lambda: fleet.status is not None and (fleet.status.version, fleet.status.have) == (4, 3))
        keep = folder / "kept"
        shutil.copytree(folder / RUN, keep)  # a connection that is collected as garbage moves the log, too
        for device in DEVICES:
            await fleet.kill(device)
        await fleet.kill(AGGREGATOR)
    shutil.rmtree(folder / RUN)
    keep.rename(folder / RUN)


def go_on(settings: Settings, folder: Path, *, logs: list[MutableMapping[str, Any]] | None = None) -> RunResult:
    """Let a run go on to its end, with its devices.

    Args:
        settings: of the run.
        folder: as `KilledRun.copy` made it.
        logs: gets what is logged.

    Raises:
        ConfigError: it is refused.
    """

    async def to_the_end() -> RunResult:
        await asyncio.sleep(LATER_S)
        async with Fleet(settings, LinearTask(), folder / "devices", seed=1) as fleet:
            fleet.start_aggregator()
            for device in DEVICES:
                fleet.add(device)
            return await fleet.result()

    try:
        with structlog.testing.capture_logs() as said:
            result = run_in_virtual_time(to_the_end(), limit_s=10_000.0)
    except BaseExceptionGroup as group:
        raise leaf_of(group) from group
    if logs is not None:
        logs += said
    return result


def replayed(settings: Settings, rows: list[Record], scratch: Path, *, known: Sequence[ServerState] = ()) -> bytes:
    """Return the model that rows yield from version 0 on; updates that are no longer there are trained again.

    Args:
        settings: with which every version was made.
        rows: of a journal.
        scratch: a folder for versions.
        known: versions that are taken as they are, in ascending order; it begins with the last of them.
    """
    task, codec = LinearTask(), codec_named(settings.training.codec)
    initial = task.initial_parameters(seed_of(settings.seed, "model") % 2**31)
    spec = ParameterSpec.of(initial)
    state = ServerState(version=0, round_id=0, spec=spec, parameters=spec.flatten(initial.parameters))
    leases = {row.lease: row for row in rows if isinstance(row, LeaseRecord)}
    aggregation = Aggregation(settings, state, PartFiles(scratch / "updates"), ModelStore(scratch), at_once)
    models: dict[int, Vector] = {0: state.parameters}
    for each in known:
        aggregation.state, models[each.version] = each, each.parameters
    counted: dict[int, list[AcceptRecord]] = {}
    for row in rows:
        match row:
            case AcceptRecord(into=into) | CommitRecord(version=into) if known and into <= known[-1].version:
                pass
            case AcceptRecord():
                update = codec.encode(_trained(task, spec, models[row.base_version], leases[row.lease]), 0)
                assert hashlib.sha256(update).hexdigest() == row.sha256, "the model that it was trained from is another"
                counted.setdefault(row.into, []).append(replace(row, data=update))
            case VoidRecord():
                left = [each for each in counted.get(row.into, []) if row.lease not in (None, each.lease)]
                counted[row.into] = left if row.lease is not None else []
            case CommitRecord():
                made = asyncio.run(aggregation.make(row.version, row.round_id, counted[row.version]))
                aggregation.state, models[row.version] = made, made.parameters
    return aggregation.state.parameters.tobytes()


def _trained(task: LinearTask, spec: ParameterSpec, received: Vector, lease: LeaseRecord) -> Vector:
    order = WorkOrder.model_validate_json(lease.work)
    work = Work(
        round_id=lease.round_id,
        seed=order.seed,
        algorithm=order.algorithm,
        epochs=order.epochs,
        max_steps=order.max_steps,
        max_seconds=None,
        batch_size=order.batch_size,
        learning_rate=order.learning_rate,
        options=order.options,
        state={},
        progress=lambda *_, **__: True,
    )
    trained = task.train(spec.unflatten(received), work, Client(id=ClientId(lease.device)))
    return delta_of(trained, received, spec)
