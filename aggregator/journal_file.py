"""The journal on disk: a table of chained rows in SQLite, and the head file that says how long it was.

SQLite with a write-ahead log and full synchronisation. It notices neither committed rows that a damaged log lost nor a
flipped bit in a number: the chain and the head do. All of it is checked when it is opened, before anything is written:
a file that is refused is left as it was, to the byte.

A journal shorter than its head gets back the rows that update files hold a copy of, when these are all that it lacks.
Everything else that is missing or changed is refused, and named.

Synchronous: to be used in the journal's lane. Not here: what rows mean (`records.py`), the check itself
(`journal_scan.py`), mending (`repair.py`).
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from aggregator.journal_head import Head, HeadFile
from aggregator.journal_rows import ACCEPT, LEASE, OUTCOME, ChainedRow, Row, copy_of, lies_in_file
from aggregator.journal_scan import Fault, connect, damaged, from_copies, scanned
from aggregator.records import RoundClock
from aggregator.update_file import RowCopies
from shared.errors import ConfigError, InvalidState

__all__ = ["JournalFile", "clock_of", "head_path", "write_anew"]

log = structlog.get_logger(__name__)

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
_INSERT = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)"
_CLOCK: TypeAdapter[RoundClock] = TypeAdapter(RoundClock)


def head_path(path: Path) -> Path:
    """Return where the head file of a journal lies."""
    return path.with_suffix(".head")


def write_anew(path: Path, rows: Iterable[ChainedRow], clock: RoundClock | None) -> None:
    """Write a journal of these rows to a path where none is, synchronised; without a head file.

    Raises:
        ConfigError: the disk is full or fails.
    """
    try:
        with closing(connect(path, is_writable=True)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            with connection:
                connection.execute("BEGIN")
                connection.executemany(_INSERT, map(_columns, rows))
                if clock is not None:
                    connection.execute("INSERT INTO clock VALUES (1, ?)", (_clock_text(clock),))
    except sqlite3.Error as error:
        raise _failed(path, error) from error


class JournalFile:
    """An open journal. `open` it first.

    Args:
        path: of the database; the head file lies beside it, with the suffix `.head`.
        copies: where rows that a file stands behind are kept a second time; None: nowhere.
    """

    def __init__(self, path: Path, copies: RowCopies | None) -> None:
        self.path = path
        self.clock: RoundClock | None = None
        """As it was stored last."""
        self._copies = copies
        self._connection: sqlite3.Connection | None = None
        self._head_file = HeadFile(head_path(path))
        self._end = Head()
        self._lease_seqs: dict[str, int] = {}  # of leases without a final outcome

    def open(self) -> None:
        """Open or create it, check all of it, and bring back what update files hold.

        Raises:
            ConfigError: it is damaged, or cannot be read or written.
        """
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise _failed(self.path, error, "opened") from error
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[Row]) -> None:
        """Commit rows; call `confirm` next, before anybody is told.

        Raises:
            ConfigError: the disk is full or fails; nothing was written.
            InvalidState: a lease is accepted twice; nothing was written.
        """
        end, chained = self._end, []
        for row in rows:
            end = row.chained(end)
            chained.append(ChainedRow(end, row))
        self._insert(chained)
        for each in chained:
            if self._copies is not None and lies_in_file(each.row):
                self._copy(self._copies, each)
            self._noticed(each)

    def confirm(self) -> None:
        """Say in the head file how long the journal is.

        Raises:
            ConfigError: the disk is full or fails; call it again.
        """
        try:
            self._head_file.write(self._end)
        except OSError as error:
            raise _failed(self.path, error) from error

    def store_clock(self, clock: RoundClock) -> None:
        """Keep a clock.

        Raises:
            ConfigError: the disk is full or fails.
        """
        try:
            self._opened().execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (_clock_text(clock),))
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error
        self.clock = clock

    def close(self) -> None:
        """Close it; closing twice does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._head_file.close()

    def _open(self) -> None:
        head = self._head_file.read()
        end, fault = scanned(self.path, head, self._noticed)
        restored: list[ChainedRow] = []
        if fault is not None and fault.is_missing and head is not None and self._copies is not None:
            restored = list(from_copies(end, self._copies.kept()))
            first = end.seq + len(restored) + 1
            if any(each.end == head for each in restored):  # and perhaps some after it, that nobody was told of
                fault = None
            elif restored:
                fault = Fault(f"row {first} of {head.seq} is missing, and no update file holds it", first)
        if fault is not None:
            raise damaged(self.path, fault.what)
        self._end = end
        connection = self._connection = connect(self.path, is_writable=True)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
        if restored:
            self._insert(restored)
            for each in restored:
                self._noticed(each)
            log.warning("journal_rows_restored", path=str(self.path), rows=[each.end.seq for each in restored])
        if head is None:
            self._head_file.create()
        stored = connection.execute("SELECT body FROM clock").fetchone()
        self.clock = None if stored is None else clock_of(stored[0])

    def _insert(self, rows: Sequence[ChainedRow]) -> None:
        connection = self._opened()
        try:
            with connection:
                connection.execute("BEGIN")
                connection.executemany(_INSERT, map(_columns, rows))
        except sqlite3.IntegrityError as error:
            raise InvalidState(f"the journal refuses a row: {error}") from error
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error

    def _noticed(self, each: ChainedRow) -> None:
        self._end = each.end
        if each.row.lease is not None and each.row.kind == LEASE:
            self._lease_seqs[each.row.lease] = each.end.seq
        elif each.row.lease is not None and each.row.kind in (ACCEPT, OUTCOME):
            self._lease_seqs.pop(each.row.lease, None)

    def _copy(self, copies: RowCopies, accept: ChainedRow) -> None:
        """Write a second copy of an ACCEPT row, and of its LEASE row, behind the update that it stands for."""
        lease = accept.row.lease or ""
        found = self._row(self._lease_seqs.get(lease, 0))
        try:
            copies.keep(lease, copy_of([accept] if found is None else [found, accept]))
        except OSError as error:  # the row itself is durable
            log.warning("row_not_copied", lease=lease, error=str(error))

    def _row(self, seq: int) -> ChainedRow | None:
        columns = "SELECT kind, lease, body, data, checksum FROM journal WHERE seq = ?"
        try:
            found = self._opened().execute(columns, (seq,)).fetchone()
        except sqlite3.Error:
            return None
        return None if found is None else ChainedRow(Head(seq, found[4]), Row(*found[:4]))

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise InvalidState("the journal is closed")
        return self._connection


def clock_of(stored: object) -> RoundClock | None:
    """Return the clock that a text of ours holds; None when there is none, or it is not what was stored."""
    if stored is None:
        return None
    try:
        body, _, digest = str(stored).partition("\n")
        if digest != _digest(body):
            raise ValueError("its checksum is wrong")
        return _CLOCK.validate_json(body)
    except (ValueError, ValidationError) as error:
        log.warning("clock_lost", error=str(error), hint="the reporting window begins anew; the model does not change")
        return None


def _failed(path: Path, error: Exception, what: str = "written") -> ConfigError:
    is_full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    hint = "make room on its disk" if is_full else "is the disk full, or the folder not writable?"
    return ConfigError(f"the journal cannot be {what}: {error}", where=str(path), hint=hint)


def _columns(each: ChainedRow) -> tuple[int, str, str | None, str, bytes | None, bytes]:
    row = each.row
    return each.end.seq, row.kind, row.lease, row.body, row.data, each.end.checksum


def _clock_text(clock: RoundClock) -> str:
    body = json.dumps({field.name: getattr(clock, field.name) for field in fields(clock)})
    return f"{body}\n{_digest(body)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
