"""What is wrong with a journal, if anything: the rows against their chain, the chain against the head file.

A journal is checked without a byte of it being changed, through a connection that only reads: what a damaged log still
holds stays there. Rows that the table lost may lie behind update files as copies; the chain proves each.

Not here: writing (`journal_file.py`), mending (`repair.py`).
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from aggregator.journal_head import Head
from aggregator.journal_rows import ChainedRow, Row, copies_of
from shared.errors import ConfigError

__all__ = [
    "Fault",
    "RowScan",
    "TornTable",
    "connect",
    "damaged",
    "from_copies",
    "journalled",
    "repair_hint",
    "scanned",
]

_SMALLEST_DATABASE = 100
"""Bytes of SQLite's own header. It deletes the log beside a file that is shorter."""

_LARGEST_PADDED = 1 << 40
"""Bytes to which a copy that was cut short is lengthened; more is no length but damage. It takes no room on disk."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong with a journal.

    Args:
        what: in words.
        seq: of the first row that is not there as it was written; None: every row is, but what holds them is damaged.
        is_missing: whether that row, and every later one, is simply not there.
    """

    what: str
    seq: int | None = None
    is_missing: bool = False


class RowScan:
    """One pass over the rows of a table, up to the first that is not what was written.

    Args:
        connection: to the database.
        head: what the head file says, None when it says nothing.
    """

    def __init__(self, connection: sqlite3.Connection, head: Head | None) -> None:
        self._connection, self._head = connection, head
        self.end = Head()
        """Of the chain, after the rows that were yielded."""
        self.fault: Fault | None = None
        """Known once the iteration has ended."""

    def __iter__(self) -> Iterator[ChainedRow]:
        """Yield the rows that are as they were written."""
        head, rows = self._head, "SELECT seq, kind, lease, body, data, checksum FROM journal ORDER BY seq"
        try:
            for seq, kind, lease, body, data, checksum in self._connection.execute(rows):
                due = self.end.seq + 1
                if seq != due:
                    self.fault = Fault(f"row {due} is missing", due)
                    return
                row = Row(kind, lease, body, data)
                try:
                    end = row.chained(self.end)
                except (AttributeError, TypeError):
                    self.fault = Fault(f"row {due} has a field of the wrong type", due)
                    return
                if end.checksum != checksum or (head is not None and due == head.seq and end != head):
                    self.fault = Fault(f"row {due} is not what was written", due)
                    return
                self.end = end
                yield ChainedRow(end, row)
            if head is not None and self.end.seq < head.seq:
                first, last = self.end.seq + 1, head.seq
                which = f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
                self.fault = Fault(which, first, is_missing=True)
                return
            self.fault = None if head is None else self._structure()
        except sqlite3.DatabaseError as error:
            first = self.end.seq + 1
            is_new = head is None and not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if not is_new:
                self.fault = Fault(f"row {first} cannot be read: SQLite says: {error}", first)

    def _structure(self) -> Fault | None:
        (said,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        return None if said == "ok" else Fault(f"every row is there, but the database is damaged: SQLite says: {said}")


def scanned(path: Path, head: Head | None, see: Callable[[ChainedRow], None]) -> tuple[Head, Fault | None]:
    """Check a journal without changing a byte of it.

    Args:
        path: of the database.
        head: what the head file says, None when it says nothing.
        see: told of every row that is as it was written, in their order.

    Returns:
        The end of the chain of those rows, and what is wrong with the first thing after them.

    Raises:
        OSError: it cannot be read at all.
    """
    n_bytes, log_path = _size(path), path.with_name(f"{path.name}-wal")
    if n_bytes < _SMALLEST_DATABASE:
        if not n_bytes and not _size(log_path) and (head is None or not head.seq):
            return Head(), None  # nothing yet
        lost = "" if head is None or not head.seq else f": rows 1 to {head.seq} are missing"
        return Head(), Fault(f"the database {'is too short' if n_bytes else 'is gone or empty'}{lost}", 1)
    with path.open("rb"):
        pass  # of a folder, or without permission, SQLite only says that it cannot open it
    try:
        with closing(connect(path, is_writable=False)) as connection:
            scan = RowScan(connection, head)
            for row in scan:
                see(row)
            fault = scan.fault
    except sqlite3.DatabaseError as error:
        return Head(), Fault(f"row 1 cannot be read: SQLite says: {error}", 1)
    if fault is None and head is None and scan.end.seq:
        fault = Fault(f"its head file is missing or unreadable, {scan.end.seq} rows are there")
    return scan.end, fault


def journalled(path: Path) -> Iterator[ChainedRow]:
    """Yield the rows of a journal that may be in use.

    Raises:
        ConfigError: there is none, or a row is damaged.
    """
    if not path.exists():
        raise ConfigError("there is no journal", where=str(path))
    try:
        with closing(connect(path, is_writable=False)) as connection:
            scan = RowScan(connection, None)
            yield from scan
            fault = scan.fault
    except sqlite3.DatabaseError as error:
        fault = Fault(f"SQLite says: {error}")
    if fault is not None:
        raise damaged(path, fault.what)


def from_copies(end: Head, copies: Iterable[bytes]) -> Iterator[ChainedRow]:
    """Yield the rows that follow `end` as far as copies of them are there; the chain proves each."""
    found: dict[int, list[ChainedRow]] = {}
    for copy in copies:
        for row in copies_of(copy):
            found.setdefault(row.end.seq, []).append(row)
    while True:
        following = next((each for each in found.get(end.seq + 1, ()) if each.follows(end)), None)
        if following is None:
            return
        yield following
        end = following.end


class TornTable:
    """The rows of a damaged table, each looked up on its own: what is unreadable costs no more than itself.

    Args:
        path: of a copy of the database; its log is read beside it.
    """

    def __init__(self, path: Path) -> None:
        if _size(path) < _SMALLEST_DATABASE:  # SQLite would delete the log; what that holds stands over these pages
            path.write_bytes(bytes(4096))
        else:
            _lengthen(path)
        self._connection = connect(path, is_writable=False)

    def row(self, seq: int) -> tuple[Row, object] | None:
        """Return a row and the checksum that stands with it, None when it is not there or cannot be read."""
        try:
            found = self._connection.execute(
                "SELECT kind, lease, body, data, checksum FROM journal WHERE seq = ?", (seq,)
            ).fetchone()
        except sqlite3.DatabaseError:
            return None
        return None if found is None else (Row(*found[:4]), found[4])

    @property
    def last_seq(self) -> int:
        """Of all rows that are there, 0 when there is none to be read."""
        try:
            found = self._connection.execute("SELECT max(seq) FROM journal").fetchone()[0]
        except sqlite3.DatabaseError:
            return 0
        return found or 0

    @property
    def clock_text(self) -> object:
        """Return the stored clock as it stands, None when there is none to be read."""
        try:
            found = self._connection.execute("SELECT body FROM clock").fetchone()
        except sqlite3.DatabaseError:
            return None
        return None if found is None else found[0]

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def _lengthen(path: Path) -> None:
    """Give a database that was cut short its length back: of one that is too short SQLite reads no page at all."""
    with path.open("r+b") as file:
        head = file.read(_SMALLEST_DATABASE)
        page_bytes, n_pages = int.from_bytes(head[16:18]), int.from_bytes(head[28:32])
        due = (65536 if page_bytes == 1 else page_bytes) * n_pages
        if head.startswith(b"SQLite format 3\0") and _size(path) < due <= _LARGEST_PADDED:
            file.truncate(due)


def damaged(path: Path, what: str) -> ConfigError:
    """Return the error that refuses a journal."""
    return ConfigError(f"the journal is damaged: {what}", where=str(path), hint=repair_hint(path.parent))


def repair_hint(folder: Path) -> str:
    """Return what to do about a damaged run."""
    return f"nothing was changed; python -m aggregator repair {folder} --dry-run says what can be done"


def connect(path: Path, *, is_writable: bool) -> sqlite3.Connection:
    """Return a connection of one transaction a statement; one that only reads never moves the log into the database."""
    # one lane is one thread at a time, not always the same one
    name = f"{path.absolute().as_uri()}?mode={'rwc' if is_writable else 'ro'}"
    return sqlite3.connect(name, uri=True, check_same_thread=False, isolation_level=None, timeout=30)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
