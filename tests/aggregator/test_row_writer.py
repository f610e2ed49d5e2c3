"""Rows are durable before anything is said of them, in their order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import structlog

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.journal import Journal, read_journal
from aggregator.records import Record, RoundRecord
from aggregator.row_writer import RowWriter
from shared.errors import ConfigError, Reason
from shared.messages import Outcome, RetryWindow
from simulator.inline_blocking import InlineBlocking
from tests.aggregator.builders import lease_name

pytestmark = pytest.mark.virtual_time

ASSIGN = cmd.Assign(lease=lease_name(1), device="d1", seconds_left=60.0)
RECEIPT = cmd.SendReceipt(lease=lease_name(1), device="d1", outcome=Outcome.ACCEPTED, repeat=True)


class FullDisk(Journal):
    """A journal that cannot be written for a while."""

    n_failures = 0

    async def append(self, *records: Record) -> None:
        """See `Journal`."""
        if self.n_failures:
            self.n_failures -= 1
            self._queued.extend(records)
            self._n_asked += len(records)
            raise ConfigError("the journal cannot be written: disk full")
        await super().append(*records)


class Desk:
    """A writer at work: what it told, and what was carried out over how many durable rows."""

    def __init__(self, journal: FullDisk) -> None:
        self.journal = journal
        self.told: list[ev.Event] = []
        self.done: list[tuple[cmd.Command, int]] = []
        self.writer = RowWriter(journal, tell=self.told.append, execute=self.execute)

    def execute(self, command: cmd.Command) -> None:
        """Note what is durable at this moment."""
        self.done.append((command, len(self.rows)))

    @property
    def rows(self) -> list[Record]:
        """What is durable."""
        return list(read_journal(self.journal.path))


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[Desk]:
    """Let a writer work."""
    journal = await FullDisk.open(folder / "journal.sqlite", InlineBlocking(Random(1)))
    desk = Desk(journal)
    work = asyncio.create_task(desk.writer.run(), name="rows")
    try:
        yield desk
    finally:
        work.cancel()
        await asyncio.wait([work])
        await journal.close()


def a_row(round_id: int, *then: cmd.Command) -> cmd.Journal:
    """Return a row, and what waits for it."""
    return cmd.Journal(record=RoundRecord(round_id=round_id, into=1), then=then)


async def test_what_waits_for_a_row_is_done_when_it_is_durable(tmp_path: Path) -> None:
    """Not before, and in order."""
    async with working(tmp_path) as desk:
        assert desk.writer.put(a_row(1, ASSIGN, cmd.PublishRound()))
        assert desk.done == []
        await asyncio.sleep(1.0)
    assert desk.done == [(ASSIGN, 1), (cmd.PublishRound(), 1)]


async def test_rows_that_wait_share_a_commit(tmp_path: Path) -> None:
    """A hundred decisions of one moment: one batch, in their order."""
    async with working(tmp_path) as desk:
        for i in range(100):
            desk.writer.put(a_row(i, cmd.PublishModel(version=i)))
        await asyncio.sleep(0.03)
        assert len(desk.done) == 100
    assert [command for command, _ in desk.done] == [cmd.PublishModel(version=i) for i in range(100)]
    assert {n for _, n in desk.done} == {100}


async def test_word_about_a_lease_waits_for_every_row_before_it(tmp_path: Path) -> None:
    """It repeats what was decided a moment ago: a device that hears of it forgets its update."""
    async with working(tmp_path) as desk:
        desk.writer.put(a_row(1))
        assert desk.writer.put(RECEIPT)
        assert desk.writer.put(ASSIGN)
        desk.writer.put(a_row(2))
        await asyncio.sleep(1.0)
    assert [command for command, _ in desk.done] == [RECEIPT, ASSIGN]
    assert all(n >= 1 for _, n in desk.done)


async def test_word_alone_is_said_at_once(tmp_path: Path) -> None:
    """There is nothing to wait for."""
    async with working(tmp_path) as desk:
        desk.writer.put(RECEIPT)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert desk.done == [(RECEIPT, 0)]


async def test_what_needs_no_row_is_given_back(tmp_path: Path) -> None:
    """Whoever asked carries it out: not final, or about no lease."""
    busy = cmd.SendReceipt(lease=lease_name(1), device="d1", outcome=Outcome.BUSY)
    come_back = cmd.ComeBack(device="d1", reason=Reason.NOT_DRAWN, retry_s=RetryWindow(min=1, max=2))
    async with working(tmp_path) as desk:
        for command in (busy, come_back, cmd.PublishRound(), cmd.TakeUpload(lease=lease_name(1))):
            assert not desk.writer.put(command)


async def test_full_disk_is_told_and_tried_until_there_is_room(tmp_path: Path) -> None:
    """Nothing is said meanwhile, nothing is lost, nothing written twice."""
    async with working(tmp_path) as desk:
        desk.journal.n_failures = 3
        desk.writer.put(a_row(1, ASSIGN))
        await asyncio.sleep(2.5)
        assert desk.done == []
        assert desk.told == [ev.DiskLow()] * 3
        await asyncio.sleep(2.0)
        assert desk.done == [(ASSIGN, 1)]
        assert len(desk.rows) == 1


async def test_journal_that_fails_on_is_summed_up(tmp_path: Path) -> None:
    """Tried every second, told once a minute with the count; one line when it can be written again."""
    async with working(tmp_path) as desk:
        desk.journal.n_failures = 150
        with structlog.testing.capture_logs() as lines:
            desk.writer.put(a_row(1))
            await asyncio.sleep(160.0)
        assert len(desk.rows) == 1
    assert [line["event"] for line in lines] == ["journal_failed"] * 3 + ["journal_written_again"]
    assert [line["times"] for line in lines[:3]] == [1, 60, 60]
    assert lines[3]["after_failures"] == 150
