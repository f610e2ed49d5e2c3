"""The journal: what the aggregator has decided, durable, in order, and the one source of truth.

Written by one lane. Appends that arrive while a commit is under way share the next one; there is no timer. After each
commit, and before anybody is told, the head file learns how long the journal is.

A row is readable by people and queries: its body is JSON, only an inline update stands in a column of its own:
`sqlite3 journal.sqlite "select seq, kind, body ->> 'device' from journal"`.

Not here: the file and its checks (`journal_file.py`), what rows mean (`records.py`), mending a damaged one
(`repair.py`).
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from aggregator.journal_file import JournalFile
from aggregator.journal_rows import record_of, row_of
from aggregator.journal_scan import damaged, journalled
from aggregator.records import Record, RoundClock
from aggregator.update_file import RowCopies
from shared.blocking import Lane, RunBlocking
from shared.errors import InvalidState

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends records, and reads them back. Opened by `open`, to be closed."""

    def __init__(self, path: Path, run_blocking: RunBlocking, copies: RowCopies | None = None) -> None:
        self.path = path
        self._run_blocking = run_blocking
        self._lock = asyncio.Lock()
        # appended to by the loop, taken from the front by the lane, each in one step; what fails to be written stays
        self._queued: list[Record] = []
        self._n_asked = 0
        self._n_durable = 0
        # from here on: touched by the journal's lane alone
        self._file = JournalFile(path, copies)
        self._n_written = 0

    @classmethod
    async def open(cls, path: Path, run_blocking: RunBlocking, copies: RowCopies | None = None) -> Self:
        """Open or create a journal, and check all of it.

        Args:
            path: of the database; the head file lies beside it, with the suffix `.head`.
            run_blocking: its lane JOURNAL is where all writing happens.
            copies: the update files, where rows are kept a second time and come back from; None: nowhere.

        Raises:
            ConfigError: it is damaged, and the first bad row and the command to run are named; or it cannot be written.
        """
        journal = cls(path, run_blocking, copies)
        await run_blocking(Lane.JOURNAL, journal._file.open)
        return journal

    async def append(self, *records: Record) -> None:
        """Make records durable, in the order of the calls, and return when they are.

        When it raises, the records are still first in line and go with the next call; so do those of a caller that
        was cancelled.

        Raises:
            ConfigError: the disk is full or fails.
            InvalidState: a lease is accepted twice.
        """
        self._queued.extend(records)
        self._n_asked += len(records)
        mine = self._n_asked
        async with self._lock:
            if self._n_durable < mine:
                self._n_durable = await self._run_blocking(Lane.JOURNAL, self._write)

    def records(self) -> Iterator[Record]:
        """Yield every record that was durable when this was called, oldest first."""
        return read_journal(self.path)

    async def store_clock(self, clock: RoundClock) -> None:
        """Keep where the timers stood; outside the chain, for it decides no bit of the model.

        Raises:
            ConfigError: the disk is full or fails.
        """
        await self._run_blocking(Lane.JOURNAL, partial(self._file.store_clock, clock))

    def clock(self) -> RoundClock | None:
        """Return the clock that was stored last, None if none was."""
        return self._file.clock

    async def close(self) -> None:
        """Write what cancelled callers left behind, and close."""
        await self._run_blocking(Lane.JOURNAL, self._close)

    def _write(self) -> int:
        """Commit all that is queued; return how many records have become durable since `open`."""
        batch = self._queued[:]
        self._file.append([row_of(record) for record in batch])
        self._n_written += len(batch)
        del self._queued[: len(batch)]
        self._file.confirm()
        return self._n_written

    def _close(self) -> None:
        try:
            if self._queued:
                self._write()
        finally:
            self._file.close()


def read_journal(path: Path) -> Iterator[Record]:
    """Yield every record of a journal, oldest first, through a connection of its own: it may be in use.

    Raises:
        ConfigError: there is none, or a row is damaged.
    """
    for each in journalled(path):
        try:
            yield record_of(each.row)
        except InvalidState as error:
            raise damaged(path, f"row {each.end.seq} is {error}") from error
