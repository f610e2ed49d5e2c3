"""An aggregator under torture ends where its plan says: shown on the real journal, part files and version files."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from aggregator.journal import Journal
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import EpochRecord
from shared.blocking import Lane, Threads
from shared.parameters import ParameterSpec
from simulator.torture_steps import SelfKilling, Step
from simulator.torture_task import CountingTask
from tests.aggregator.builders import an_offer, lease_name

CHUNK_BYTES = 4096
N_CHUNKS = 4
UPDATE = bytes(range(256)) * (CHUNK_BYTES * N_CHUNKS // 256)
LEASE = lease_name(1)


class Killed(BaseException):
    """In place of a SIGKILL: nothing of ours catches it."""


class Cautious(Random):
    """Keeps every unsynchronised byte, or loses it: never the luck of a draw."""

    def __init__(self, *, loses: bool) -> None:
        super().__init__(1)
        self._loses = loses

    def random(self) -> float:
        return 0.0 if self._loses else 1.0

    def choice(self, seq: Any) -> Any:
        return seq[0]


Killing = Callable[..., SelfKilling]


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Killing:
    """Make a `SelfKilling` that raises, and that listens until the test is over."""

    def make(threads: Threads, step: Step, nth: int = 1, *, loses: bool = False) -> SelfKilling:
        def kill() -> None:
            raise Killed

        killing = SelfKilling(threads, step, nth, Cautious(loses=loses), kill)
        killing.listen(monkeypatch.setattr)
        return killing

    return make


def _rows(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection:
        return int(connection.execute("SELECT count(*) FROM journal").fetchone()[0])


async def _append_until_killed(folder: Path, killing: Killing, step: Step, *, loses: bool = False) -> bytes:
    """Append two rows in two commits, die at the second; return the head file as it was between them."""
    with Threads() as threads:
        journal = await Journal.open(folder / "journal.sqlite", threads)
        await journal.append(EpochRecord(epoch=1, instance="one"))
        head = (folder / "journal.head").read_bytes()
        journal._run_blocking = killing(threads, step, loses=loses)
        with pytest.raises(Killed):
            await journal.append(EpochRecord(epoch=2, instance="two"))
        return head


@pytest.mark.parametrize(
    ("step", "n_rows", "has_head"),
    [
        (Step.BEFORE_HEAD, 2, False),
        (Step.HEAD_UNSYNCED, 2, True),
        (Step.BEFORE_RECEIPTS, 2, True),
    ],
)
async def test_journal_ends_at_each_of_its_steps(
    tmp_path: Path, killing: Killing, step: Step, n_rows: int, has_head: bool
) -> None:
    """Before the head there is a row and no head; after it there are both."""
    head = await _append_until_killed(tmp_path, killing, step)
    assert _rows(tmp_path) == n_rows
    assert ((tmp_path / "journal.head").read_bytes() != head) is has_head


async def test_commit_has_not_begun_when_it_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed at that instant leaves the row before it, and not its own."""
    killed: list[int] = []
    with Threads() as threads:
        # SQLite would swallow an exception here: the files are copied instead, as a kill would leave them
        blocking = SelfKilling(
            threads, Step.BEFORE_COMMIT, 2, Random(1), lambda: killed.append(len(_copied_rows(tmp_path)))
        )
        blocking.listen(monkeypatch.setattr)
        journal = await Journal.open(tmp_path / "journal.sqlite", blocking)
        for epoch in (1, 2, 3):
            await journal.append(EpochRecord(epoch=epoch, instance="one"))
        await journal.close()
    assert killed == [1]


def _copied_rows(folder: Path) -> list[int]:
    """Return the rows that a copy of the files has."""
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        (folder / f"copy-of-{name}").write_bytes((folder / name).read_bytes())
    with closing(sqlite3.connect(folder / "copy-of-journal.sqlite")) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM journal")]


async def test_head_that_was_not_synchronised_may_be_lost(tmp_path: Path, killing: Killing) -> None:
    """A power failure leaves the head of before, and the journal opens with every row all the same."""
    head = await _append_until_killed(tmp_path, killing, Step.HEAD_UNSYNCED, loses=True)
    assert (tmp_path / "journal.head").read_bytes() == head
    with Threads() as threads:
        journal = await Journal.open(tmp_path / "journal.sqlite", threads)
        assert list(journal.records()) == [
            EpochRecord(epoch=1, instance="one"),
            EpochRecord(epoch=2, instance="two"),
        ]
        await journal.close()


def _upload_until_killed(folder: Path, killing: Killing, step: Step, *, loses: bool = False) -> None:
    """Write all chunks of an update, and die while it is being finished."""
    part_files = PartFiles(folder)
    part_files.begin(an_offer(UPDATE, LEASE, chunk_bytes=CHUNK_BYTES))
    with Threads() as threads:
        killing(threads, step, loses=loses)
        part_files.write(LEASE, [(i, UPDATE[CHUNK_BYTES * i : CHUNK_BYTES * (i + 1)]) for i in range(N_CHUNKS)])
        with pytest.raises(Killed):
            part_files.finish(LEASE)


@pytest.mark.parametrize(
    ("step", "suffix"),
    [(Step.PART_UNSYNCED, "part"), (Step.BEFORE_RENAME, "part"), (Step.BEFORE_ACCEPT, "update")],
)
def test_upload_ends_at_each_of_its_steps(tmp_path: Path, killing: Killing, step: Step, suffix: str) -> None:
    """Before the rename there is a part file, after it an update."""
    _upload_until_killed(tmp_path, killing, step)
    assert (tmp_path / f"{LEASE}.{suffix}").exists()
    assert not (tmp_path / f"{LEASE}.{'part' if suffix == 'update' else 'update'}").exists()


def test_chunks_that_were_not_synchronised_may_be_lost(tmp_path: Path, killing: Killing) -> None:
    """They are as if they had never come, and are asked for again; after the fsync they are there for good."""
    _upload_until_killed(tmp_path, killing, Step.PART_UNSYNCED, loses=True)
    assert PartFiles(tmp_path).begin(an_offer(UPDATE, LEASE, chunk_bytes=CHUNK_BYTES)).n_set == 0
    _upload_until_killed(tmp_path, killing, Step.BEFORE_RENAME, loses=True)
    assert PartFiles(tmp_path).begin(an_offer(UPDATE, LEASE, chunk_bytes=CHUNK_BYTES)).n_set == N_CHUNKS


def _save_until_killed(folder: Path, killing: Killing, step: Step, *, loses: bool = False) -> ModelStore:
    spec = ParameterSpec.of(CountingTask(16).initial_parameters(0))
    store = ModelStore(folder / "versions")
    with Threads() as threads:
        killing(threads, step, loses=loses)
        with pytest.raises(Killed):
            store.save(ServerState(version=1, round_id=1, spec=spec, parameters=np.ones(16, dtype=np.float32)))
    return store


@pytest.mark.parametrize(
    ("step", "versions"), [(Step.VERSION_UNSYNCED, []), (Step.VERSION_RENAME, []), (Step.VERSION_WRITTEN, [1])]
)
@pytest.mark.parametrize("loses", [False, True])
def test_version_ends_at_each_of_its_steps(
    tmp_path: Path, killing: Killing, step: Step, versions: list[int], *, loses: bool
) -> None:
    """A version is there once it is renamed, and then it is whole, whatever a power failure took before."""
    store = _save_until_killed(tmp_path, killing, step, loses=loses)
    assert store.versions() == versions
    for version in versions:
        assert store.load(version).parameters.tobytes() == np.ones(16, dtype=np.float32).tobytes()


async def test_fold_is_ended_before_it_begins(killing: Killing) -> None:
    """Work of the lane COMPUTE does not run at the passage of the plan."""
    done: list[int] = []
    with Threads() as threads:
        blocking = killing(threads, Step.BEFORE_FOLD, 2)
        await blocking(Lane.DISK, partial(done.append, 0))
        await blocking(Lane.COMPUTE, partial(done.append, 1))
        with pytest.raises(Killed):
            await blocking(Lane.COMPUTE, partial(done.append, 2))
    assert done == [0, 1]


async def test_end_before_publishing_comes_with_the_first_commit_behind_a_version(
    tmp_path: Path, killing: Killing
) -> None:
    """Commits before a version was renamed do not count."""
    with Threads() as threads:
        blocking = killing(threads, Step.BEFORE_PUBLISH)
        await blocking(Lane.JOURNAL, lambda: None)
        (tmp_path / "versions").mkdir()
        (tmp_path / "new").touch()
        await blocking(Lane.DISK, partial(os.rename, tmp_path / "new", tmp_path / "versions" / "1"))
        with pytest.raises(Killed):
            await blocking(Lane.JOURNAL, lambda: None)


async def test_life_without_a_step_goes_on(killing: Killing, tmp_path: Path) -> None:
    """A plan may name none: then only somebody else kills."""
    with Threads() as threads:
        blocking = SelfKilling(threads, None, 0, Random(1))
        assert await blocking(Lane.COMPUTE, lambda: 7) == 7
