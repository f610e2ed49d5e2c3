"""One worker for the sums: what it tells the machine, and what it keeps to itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.aggregation import Aggregation
from aggregator.evaluation import Evaluator
from aggregator.leases import LeaseBook
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.publishing import model_blob
from aggregator.records import AcceptRecord
from aggregator.tally import Tally
from aggregator.version_making import VersionMaking
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Evaluated, Initial
from simulator.inline_blocking import InlineBlocking
from tests.aggregator.builders import a_lease, an_accept, some_settings

pytestmark = pytest.mark.virtual_time

N_PARAMS = 12


class Judge:
    """Evaluates by the first parameter, unless it is told to fail."""

    def __init__(self) -> None:
        self.fails = False
        self.n_asked = 0

    async def initial(self, seed: int) -> Initial:
        """See `Evaluator`."""
        return Initial({"w": np.zeros(N_PARAMS, np.float32)})

    async def evaluate(self, parameters: Vector, spec: ParameterSpec, constants: Arrays) -> Evaluated | None:
        """See `Evaluator`."""
        self.n_asked += 1
        if self.fails:
            raise ConfigError("the task raised")
        return Evaluated(num_examples=1, metrics={"accuracy": float(parameters[0])})

    async def close(self) -> None:
        """See `Evaluator`."""


class Flaky(ModelStore):
    """A disk that is full the first time."""

    n_failures = 1

    def save(self, state: ServerState) -> Path:
        """See `ModelStore`."""
        if self.n_failures:
            self.n_failures -= 1
            raise OSError(28, "No space left on device")
        return super().save(state)


class Workshop:
    """A version making at work, over books in which updates are accepted by hand."""

    def __init__(self, folder: Path, *, store: ModelStore | None = None, **tables: Any) -> None:
        settings = some_settings(**tables)
        spec = ParameterSpec.of(Initial({"w": np.zeros(N_PARAMS, np.float32)}))
        state = ServerState(version=0, round_id=0, spec=spec, parameters=np.zeros(N_PARAMS, np.float32))
        blocking = InlineBlocking(Random(1))
        self.leases = LeaseBook()
        self.tally = Tally(settings, self.leases)
        self.judge = Judge()
        judge: Evaluator = self.judge
        self.store = store or ModelStore(folder / "versions")
        self.aggregation = Aggregation(settings, state, PartFiles(folder / "updates"), self.store, blocking)
        self.told: list[ev.Event] = []
        blob = model_blob(state.parameters, spec, 0, 4096)
        self.versions = VersionMaking(
            settings, self.aggregation, self.tally, judge, blob, blocking, participants=(), tell=self.told.append
        )

    def accept(self, *records: AcceptRecord) -> None:
        """Count updates, and have them folded."""
        for record in records:
            row = replace(a_lease(int(record.lease, 16), record.device), base_version=record.base_version)
            self.leases.issue(row, now=0.0, expires_at=1.0)
            self.tally.enter(record)
            self.versions.put(cmd.Fold(record=record))

    async def make(self, into: int = 1) -> list[ev.Event]:
        """Ask for a version; returns what was told."""
        self.told.clear()
        self.versions.put(cmd.Aggregate(into=into, round_id=into))
        await asyncio.sleep(1.0)
        return list(self.told)


@asynccontextmanager
async def working(workshop: Workshop) -> AsyncIterator[Workshop]:
    """Let it work."""
    work = asyncio.create_task(workshop.versions.run(), name="versions")
    try:
        yield workshop
    finally:
        work.cancel()
        await asyncio.wait([work])


def two_updates(into: int = 1) -> list[AcceptRecord]:
    """Return updates of two devices whose mean is 2."""
    ones = np.ones(N_PARAMS, np.float32)
    first = 2 * into - 1
    return [an_accept(ones, number=first, into=into), an_accept(3 * ones, number=first + 1, into=into)]


async def test_version_is_evaluated_written_and_told(tmp_path: Path) -> None:
    """The machine hears of it when it is durable; leases and devices that are in it are remembered."""
    async with working(Workshop(tmp_path)) as workshop:
        workshop.accept(*two_updates())
        (written,) = await workshop.make()
    versions = workshop.versions
    assert written == ev.VersionWritten(version=1, digest=versions.blob.ref.digest, metrics=(("accuracy", 2.0),))
    assert workshop.store.load(1).parameters[0] == 2.0
    assert (versions.blob.ref.version, versions.participants) == (1, ("d1", "d2"))
    assert versions.spent == tuple(record.lease for record in two_updates())


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3]), (2, [2, 3])])
async def test_versions_are_evaluated_when_due_and_at_the_end(tmp_path: Path, every: int, expected: list[int]) -> None:
    """Every second, and the third because it is the last; never at all with 0."""
    workshop = Workshop(tmp_path, evaluation={"central_every": every}, stop={"rounds": 3})
    found = []
    async with working(workshop):
        for version in (1, 2, 3):
            workshop.accept(*two_updates(version))
            workshop.tally.close()
            (written,) = await workshop.make(version)
            assert isinstance(written, ev.VersionWritten)
            workshop.tally.commit(version)
            found += [version] if written.metrics else []
    assert found == expected


async def test_evaluation_that_fails_does_not_stop_the_training(tmp_path: Path) -> None:
    """The version comes without metrics."""
    workshop = Workshop(tmp_path)
    workshop.judge.fails = True
    async with working(workshop):
        workshop.accept(*two_updates())
        (written,) = await workshop.make()
    assert isinstance(written, ev.VersionWritten)
    assert written.metrics == ()


async def test_version_that_cannot_be_made_is_told_and_made_when_asked_again(tmp_path: Path) -> None:
    """The disk was full: nothing is half done, and the second attempt gives the version."""
    store = Flaky(tmp_path / "versions")
    async with working(Workshop(tmp_path, store=store)) as workshop:
        workshop.accept(*two_updates())
        (failed,) = await workshop.make()
        assert isinstance(failed, ev.AggregationFailed)
        assert "No space left" in failed.detail
        assert (workshop.aggregation.state.version, workshop.versions.blob.ref.version) == (0, 0)
        (written,) = await workshop.make()
    assert isinstance(written, ev.VersionWritten)
    assert workshop.aggregation.state.parameters[0] == 2.0


async def test_update_that_cannot_be_folded_stops_the_run_only_when_it_is_needed(tmp_path: Path) -> None:
    """Its file is missing: nothing is told until the version is made, which then fails, and says which."""
    async with working(Workshop(tmp_path)) as workshop:
        good, lost = two_updates()
        workshop.accept(good, replace(lost, data=None))
        await asyncio.sleep(1.0)
        assert workshop.told == []
        (failed,) = await workshop.make()
    assert isinstance(failed, ev.AggregationFailed)
    assert lost.lease in failed.detail


async def test_version_that_is_asked_for_twice_is_made_once(tmp_path: Path) -> None:
    """A second request for what exists steps no further."""
    async with working(Workshop(tmp_path)) as workshop:
        workshop.accept(*two_updates())
        await workshop.make()
        assert await workshop.make() == []
    assert workshop.aggregation.state.parameters[0] == 2.0


async def test_voided_updates_are_forgotten_in_order(tmp_path: Path) -> None:
    """Fold, forget, fold: only what came after counts."""
    async with working(Workshop(tmp_path)) as workshop:
        workshop.accept(*two_updates())
        workshop.versions.put(cmd.Forget(into=workshop.tally.version + 1))
        workshop.tally.void()
        workshop.accept(an_accept(np.full(N_PARAMS, 7, np.float32), number=9))
        await workshop.make()
    assert workshop.aggregation.state.parameters[0] == 7.0
