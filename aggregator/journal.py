"""The journal: what the aggregator has decided, durable, in order, and the one source of truth.

SQLite with a write-ahead log and full synchronisation, written by one lane. Appends that arrive while a commit is
under way share the next one; there is no timer. Each row carries a checksum chained over the one before, and after
each commit the last (seq, checksum) goes to a small head file: SQLite itself notices neither committed rows that a
damaged log lost nor a flipped bit in a number.

A row is readable by people and queries: its body is JSON, only an inline update stands in a column of its own:
`sqlite3 journal.sqlite "select seq, kind, body ->> 'device' from journal"`.

Not here: what rows mean (`records.py`), and repairing a damaged journal.
"""

import asyncio
import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import TypeAdapter, ValidationError

from aggregator.journal_head import Head, HeadFile
from aggregator.records import AcceptRecord, Record, RoundClock
from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError, InvalidState

__all__ = ["Journal", "read_journal"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    lease TEXT,
    body TEXT NOT NULL,
    data BLOB,
    checksum BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_accept_a_lease ON journal (lease) WHERE kind = 'accept';
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL);
"""
_NAMES: dict[type[Any], str] = {kind: kind.__name__.removesuffix("Record").lower() for kind in get_args(Record)}
_READERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for kind, name in _NAMES.items()}
_DAMAGED = "nothing was changed: keep a copy of the folder, or give the run another name to begin anew"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row as it lies in the table, but for its seq and checksum."""

    kind: str
    lease: str | None
    body: str
    data: bytes | None

    def chained(self, before: Head) -> Head:
        """Return the end of the chain once this row follows `before`."""
        parts = [self.kind.encode(), (self.lease or "").encode(), self.body.encode(), self.data or b""]
        lengths = struct.pack("<Q4q?", before.seq + 1, *map(len, parts), self.data is None)
        return Head(before.seq + 1, hashlib.sha256(b"".join([before.checksum, lengths, *parts])).digest())


class Journal:
    """Appends records, and reads them back. Opened by `open`, to be closed."""

    def __init__(self, path: Path, run_blocking: RunBlocking) -> None:
        self.path = path
        self._run_blocking = run_blocking
        self._lock = asyncio.Lock()
        # appended to by the loop, taken from the front by the lane, each in one step; what fails to be written stays
        self._queued: list[Record] = []
        self._n_asked = 0
        self._n_durable = 0
        # from here on: touched by the journal's lane alone
        self._connection: sqlite3.Connection | None = None
        self._head_file = HeadFile(path.with_suffix(".head"))
        self._end = Head()
        self._n_written = 0
        self._clock: RoundClock | None = None

    @classmethod
    async def open(cls, path: Path, run_blocking: RunBlocking) -> Self:
        """Open or create a journal, and check all of it.

        Args:
            path: of the database; the head file lies beside it, with the suffix `.head`.
            run_blocking: its lane JOURNAL is where all writing happens.

        Raises:
            ConfigError: it is damaged; the first bad row and the command to run are named.
        """
        journal = cls(path, run_blocking)
        await run_blocking(Lane.JOURNAL, journal._open)
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
        await self._run_blocking(Lane.JOURNAL, partial(self._store_clock, clock))

    def clock(self) -> RoundClock | None:
        """Return the clock that was stored last, None if none was."""
        return self._clock

    async def close(self) -> None:
        """Write what cancelled callers left behind, and close."""
        await self._run_blocking(Lane.JOURNAL, self._close)

    def _open(self) -> None:
        connection = self._connection = _connect(self.path)
        try:
            self._check(connection)
        except BaseException:
            self._close()
            raise

    def _check(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            head = self._head_file.read()
            for end, _ in _checked_rows(connection, head):
                self._end = end
            stored = connection.execute("SELECT body FROM clock").fetchone()
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, f"SQLite says: {error}") from error
        if stored is not None:
            self._clock = TypeAdapter(RoundClock).validate_json(stored[0])
        if head is None:
            if self._end.seq:
                raise _damaged(self.path, f"its head file is missing or unreadable, {self._end.seq} rows are there")
            self._head_file.create()

    def _write(self) -> int:
        """Commit all that is queued; return how many records have become durable since `open`."""
        connection = self._opened()
        batch = self._queued[:]
        rows, end = [], self._end
        for record in batch:
            row = _to_row(record)
            end = row.chained(end)
            rows.append((end.seq, row.kind, row.lease, row.body, row.data, end.checksum))
        try:
            with connection:
                connection.execute("BEGIN")
                connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            raise InvalidState(f"the journal refuses a row: {error}") from error
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error
        self._end = end
        self._n_written += len(batch)
        del self._queued[: len(batch)]
        try:
            self._head_file.write(end)
        except OSError as error:
            raise _failed(self.path, error) from error
        return self._n_written

    def _store_clock(self, clock: RoundClock) -> None:
        body = json.dumps({field.name: getattr(clock, field.name) for field in fields(clock)})
        try:
            self._opened().execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (body,))
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error
        self._clock = clock

    def _close(self) -> None:
        try:
            if self._queued:
                self._write()
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            self._head_file.close()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InvalidState("the journal is closed")
        return self._connection


def read_journal(path: Path) -> Iterator[Record]:
    """Yield every record of a journal, oldest first, through a connection of its own: it may be in use.

    Raises:
        ConfigError: there is none, or a row is damaged.
    """
    if not path.exists():
        raise ConfigError("there is no journal", where=str(path))
    try:
        with closing(_connect(path)) as connection:
            for end, row in _checked_rows(connection, None):
                yield _to_record(path, end.seq, row)
    except sqlite3.DatabaseError as error:
        raise _damaged(path, f"SQLite says: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # one lane is one thread at a time, not always the same one
    return sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)


def _checked_rows(connection: sqlite3.Connection, head: Head | None) -> Iterator[tuple[Head, _Row]]:
    """Yield each row and the chain's end after it; refuse the first that is not what was written."""
    path = Path(connection.execute("PRAGMA database_list").fetchone()[2])
    end = Head()
    for seq, kind, lease, body, data, checksum in connection.execute(
        "SELECT seq, kind, lease, body, data, checksum FROM journal ORDER BY seq"
    ):
        if seq != end.seq + 1:
            raise _damaged(path, f"row {end.seq + 1} is missing")
        row = _Row(kind, lease, body, data)
        try:
            end = row.chained(end)
        except (AttributeError, TypeError) as error:
            raise _damaged(path, f"row {seq} has a field of the wrong type") from error
        if end.checksum != checksum or (head is not None and end.seq == head.seq and end != head):
            raise _damaged(path, f"row {seq} is not what was written")
        yield end, row
    if head is not None and end.seq < head.seq:
        raise _damaged(path, f"rows {end.seq + 1} to {head.seq} are missing")


def _to_row(record: Record) -> _Row:
    body = {field.name: getattr(record, field.name) for field in fields(record) if field.name != "data"}
    data = record.data if isinstance(record, AcceptRecord) else None
    return _Row(_NAMES[type(record)], getattr(record, "lease", None), json.dumps(body), data)


def _to_record(path: Path, seq: int, row: _Row) -> Record:
    try:
        values = json.loads(row.body) | ({} if row.data is None else {"data": row.data})
        record: Record = _READERS[row.kind].validate_python(values)
    except (KeyError, ValueError, ValidationError) as error:
        raise _damaged(path, f"row {seq} is of another version of FedMQ: {error}") from error
    return record


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(f"the journal is damaged: {what}", where=str(path), hint=_DAMAGED)


def _failed(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"the journal cannot be written: {error}", where=str(path), hint="is the disk full?")
