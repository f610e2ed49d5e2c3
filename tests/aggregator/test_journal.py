"""The journal keeps every record in order, and notices when it did not."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.journal import Journal, read_journal
from aggregator.records import (
    AbandonRecord,
    AcceptRecord,
    CloseRecord,
    CommitRecord,
    ConfigRecord,
    EpochRecord,
    FinishRecord,
    LeaseRecord,
    OutcomeRecord,
    Record,
    RoundClock,
    RoundRecord,
    VoidRecord,
)
from shared.blocking import Lane, Threads
from shared.errors import ConfigError, InvalidState, Reason
from shared.messages import Kind, Outcome

T = TypeVar("T")
A_RECORD_OF_EACH_KIND: tuple[Record, ...] = (
    EpochRecord(epoch=1_700_000_000, instance="a1b2"),
    ConfigRecord(digest="d" * 64, settings='{"seed": 1, "task": "ä:b"}', from_version=0),
    RoundRecord(round_id=1, into=1),
    LeaseRecord(
        lease="0" * 32,
        device="pi-7",
        round_id=1,
        kind=Kind.TRAIN,
        base_version=0,
        codec="float32",
        max_bytes=4096,
        work='{"seed":9007199254740993}',
    ),
    AcceptRecord(
        seq=1,
        lease="0" * 32,
        device="pi-7",
        round_id=1,
        base_version=0,
        into=1,
        weight=0.1 + 0.2,
        num_examples=2**53 - 1,
        n_steps=3,
        clip_scale=1.0,
        codec="float32",
        size=4,
        sha256="e" * 64,
        data=bytes(range(256)),
    ),
    OutcomeRecord(lease="1" * 32, outcome=Outcome.REJECTED, reason=Reason.NORM, detail="norm 7 is over 5"),
    OutcomeRecord(
        lease="2" * 32, outcome=Outcome.ACCEPTED, num_examples=9, metrics=(("accuracy", (8.0, 9.0)), ("loss", 0.25))
    ),
    CloseRecord(into=1, last_seq=1),
    CommitRecord(version=1, round_id=1, digest="f" * 64, metrics=(("accuracy", 0.1), ("loss", 2.302585))),
    AbandonRecord(round_id=2),
    VoidRecord(into=2),
    FinishRecord(cause="rounds"),
)


def an_accept(lease: str = "3" * 32, seq: int = 1) -> AcceptRecord:
    """Return an update that lies in a file."""
    return AcceptRecord(
        seq=seq,
        lease=lease,
        device="pi-7",
        round_id=1,
        base_version=0,
        into=1,
        weight=1.0,
        num_examples=1,
        n_steps=1,
        clip_scale=1.0,
        codec="float32",
        size=4,
        sha256="e" * 64,
    )


async def inline(lane: Lane, work: Callable[[], T]) -> T:
    """Run work at once; let others run before, as a thread would."""
    await asyncio.sleep(0)
    return work()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal of a test lies."""
    return tmp_path / "journal.db"


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Real lanes."""
    with Threads() as found:
        yield found


async def a_journal_of(path: Path, *records: Record) -> None:
    """Write a journal and close it."""
    journal = await Journal.open(path, inline)
    for record in records:
        await journal.append(record)
    await journal.close()


async def reopened(path: Path) -> list[Record]:
    """Open a journal, return all of it, close it."""
    journal = await Journal.open(path, inline)
    try:
        return list(journal.records())
    finally:
        await journal.close()


async def test_records_of_every_kind_come_back_as_they_were(path: Path, threads: Threads) -> None:
    """Whatever the machine has decided, a restart reads the same, in the same order."""
    journal = await Journal.open(path, threads)
    await journal.append(*A_RECORD_OF_EACH_KIND[:3])
    await journal.append(*A_RECORD_OF_EACH_KIND[3:])
    await journal.close()
    assert tuple(await reopened(path)) == A_RECORD_OF_EACH_KIND
    assert {type(record) for record in A_RECORD_OF_EACH_KIND} == set(get_args(Record))


@given(weight=st.floats(allow_nan=False, allow_infinity=False, min_value=0), loss=st.floats(allow_nan=False))
def test_floats_come_back_to_the_bit(weight: float, loss: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A weight that lost its last bit would be another model; a loss may be infinite."""
    records = (
        replace(an_accept(), weight=weight),
        CommitRecord(version=1, round_id=1, digest="", metrics=(("loss", loss),)),
    )
    path = tmp_path_factory.mktemp("floats") / "journal.db"

    async def there_and_back() -> list[Record]:
        await a_journal_of(path, *records)
        return await reopened(path)

    assert tuple(asyncio.run(there_and_back())) == records


async def test_appends_that_arrive_during_a_commit_share_the_next(path: Path) -> None:
    """Ten appends take two commits, and each returns only when its own row is durable."""
    n_commits = 0
    gate = asyncio.Event()

    async def gated(lane: Lane, work: Callable[[], T]) -> T:
        nonlocal n_commits
        n_commits += 1
        result = work()
        await gate.wait()
        return result

    journal = await Journal.open(path, inline)
    journal._run_blocking = gated
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(journal.append(RoundRecord(round_id=i, into=i))) for i in range(10)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        gate.set()
    await journal.close()
    assert n_commits == 3  # the first row, the nine that queued meanwhile, closing
    assert await reopened(path) == [RoundRecord(round_id=i, into=i) for i in range(10)]


async def test_append_is_durable_when_it_returns(path: Path) -> None:
    """Another process sees the row, and the head file names it, before the caller goes on."""
    journal = await Journal.open(path, inline)
    await journal.append(AbandonRecord(round_id=1), AbandonRecord(round_id=2))
    assert list(read_journal(path)) == [AbandonRecord(round_id=1), AbandonRecord(round_id=2)]
    assert f"{2:020d}".encode() in path.with_suffix(".head").read_bytes()
    await journal.close()


async def test_caller_that_is_cancelled_still_has_its_rows_written_in_order(path: Path, threads: Threads) -> None:
    """What was decided is written, even if whoever waited for it has gone."""
    journal = await Journal.open(path, threads)
    first = asyncio.ensure_future(journal.append(AbandonRecord(round_id=1)))
    second = asyncio.ensure_future(journal.append(AbandonRecord(round_id=2)))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await journal.append(AbandonRecord(round_id=3))
    await journal.close()
    assert await reopened(path) == [AbandonRecord(round_id=i) for i in (1, 2, 3)]


async def test_append_that_fails_is_first_in_line_for_the_next(path: Path) -> None:
    """A disk that was full for a while loses nothing and swaps nothing."""
    journal = await Journal.open(path, inline)
    connection = journal._file._connection
    assert connection is not None
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(ConfigError, match="cannot be written"):
        await journal.append(AbandonRecord(round_id=1))
    connection.execute("PRAGMA query_only = OFF")
    await journal.append(AbandonRecord(round_id=2))
    await journal.close()
    assert await reopened(path) == [AbandonRecord(round_id=1), AbandonRecord(round_id=2)]


async def test_lease_accepted_twice_is_refused(path: Path) -> None:
    """The table itself keeps an update from being counted twice."""
    await a_journal_of(path, an_accept(seq=1))
    journal = await Journal.open(path, inline)
    with pytest.raises(InvalidState):
        await journal.append(an_accept(seq=2))
    with pytest.raises(InvalidState):
        await journal.close()
    assert await reopened(path) == [an_accept(seq=1)]


async def test_clock_stored_last_is_there_after_a_restart(path: Path) -> None:
    """A restart goes on with the time that was left."""
    journal = await Journal.open(path, inline)
    assert journal.clock() is None
    for left_s in (60.0, 54.7):
        await journal.store_clock(RoundClock(round_id=3, left_s=left_s, n_extensions=1, wall_s=1.7e9))
    await journal.close()
    journal = await Journal.open(path, inline)
    assert journal.clock() == RoundClock(round_id=3, left_s=54.7, n_extensions=1, wall_s=1.7e9)
    await journal.close()


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        ("UPDATE journal SET body = replace(body, 'pi-7', 'pi-8') WHERE seq = 4", "row 4 "),
        ("UPDATE journal SET data = zeroblob(256) WHERE seq = 5", "row 5 "),
        ("UPDATE journal SET lease = NULL WHERE seq = 5", "row 5 "),
        ("UPDATE journal SET checksum = zeroblob(32) WHERE seq = 7", "row 7 "),
        ("UPDATE journal SET body = 7 WHERE seq = 2", "row 2 "),
        ("DELETE FROM journal WHERE seq = 6", "row 6 "),
        ("DELETE FROM journal WHERE seq = 1", "row 1 "),
        ("DELETE FROM journal WHERE seq >= 10", "rows 10 to 12 "),
        ("DELETE FROM journal", "rows 1 to 12 "),
        ("DELETE FROM journal; DROP TABLE journal", "row 1 .*no such table"),
    ],
)
async def test_damaged_row_is_named_and_the_journal_refused(path: Path, damage: str, names: str) -> None:
    """A row that changed, or went, is never silently believed; the operator reads which, and what to do."""
    await a_journal_of(path, *A_RECORD_OF_EACH_KIND)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(damage)
    with pytest.raises(ConfigError, match=f"(?s){names}.*nothing was changed"):
        await Journal.open(path, inline)


async def test_journal_whose_file_is_gone_is_refused(path: Path) -> None:
    """The head remembers that there were rows."""
    await a_journal_of(path, *A_RECORD_OF_EACH_KIND)
    await inline(Lane.DISK, path.unlink)
    with pytest.raises(ConfigError, match="rows 1 to 12 are missing"):
        await Journal.open(path, inline)


async def test_journal_that_is_no_database_is_refused(path: Path) -> None:
    """SQLite's own complaint becomes one error with the file's name."""
    await inline(Lane.DISK, lambda: path.write_bytes(b"not a database" * 100))
    with pytest.raises(ConfigError, match="not a database"):
        await Journal.open(path, inline)


async def test_journal_that_cannot_be_opened_is_no_damage(path: Path) -> None:
    """A folder in its place, a file without permission: said as it is, without a word of repair."""
    await inline(Lane.DISK, path.mkdir)
    with pytest.raises(ConfigError, match=r"cannot be opened: .*Is a directory") as caught:
        await Journal.open(path, inline)
    assert "repair" not in str(caught.value)


async def test_rows_without_a_head_file_are_refused(path: Path) -> None:
    """Without its head nobody knows how long the journal was."""
    await a_journal_of(path, *A_RECORD_OF_EACH_KIND)
    path.with_suffix(".head").unlink()
    with pytest.raises(ConfigError, match="head file"):
        await Journal.open(path, inline)


async def test_journal_longer_than_its_head_opens(path: Path) -> None:
    """A process killed between commit and head has told nobody; the rows count."""
    await a_journal_of(path, *A_RECORD_OF_EACH_KIND[:2])
    head = path.with_suffix(".head").read_bytes()
    await a_journal_of(path, A_RECORD_OF_EACH_KIND[2])
    path.with_suffix(".head").write_bytes(head)
    assert tuple(await reopened(path)) == A_RECORD_OF_EACH_KIND[:3]


def test_read_journal_where_there_is_none_says_so(path: Path) -> None:
    """Asking for a run that never was creates nothing."""
    with pytest.raises(ConfigError, match="no journal"):
        list(read_journal(path))
    assert not path.exists()
