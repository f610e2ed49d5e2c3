"""Only what no commit covers is torn, and SQLite finds every committed row behind it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from simulator.torture_tails import committed_bytes, tear_log


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A database whose ten commits are in its log alone, as whoever is killed leaves it."""
    live, dead = tmp_path / "live.sqlite", tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x BLOB)")
        for number in range(10):
            connection.execute("INSERT INTO t VALUES (?)", (bytes([number]) * 3000,))
        for suffix in ("", "-wal"):
            dead.with_name(dead.name + suffix).write_bytes(live.with_name(live.name + suffix).read_bytes())
    return dead


def _rows(journal: Path) -> list[bytes]:
    with closing(sqlite3.connect(journal)) as connection:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


@pytest.mark.parametrize("seed", range(12))
def test_torn_tail_loses_no_committed_row(journal: Path, seed: int) -> None:
    """Cut, rubbish or a torn frame: ten rows were committed, ten are read."""
    assert tear_log(journal, Random(seed)) is not None
    assert _rows(journal) == [bytes([number]) * 3000 for number in range(10)]


def test_every_kind_of_tear_is_drawn(journal: Path) -> None:
    """Within a few kills each has happened."""
    assert {tear_log(journal, Random(seed)) for seed in range(12)} == {
        "log cut behind the last commit",
        "rubbish behind the last commit",
        "torn frame behind the last commit",
    }


def test_uncommitted_frames_are_not_covered(journal: Path) -> None:
    """What a transaction had written when it was killed may go."""
    log = journal.with_name(journal.name + "-wal").read_bytes()
    assert committed_bytes(log) == len(log)
    frame = bytearray(log[32 : 32 + 24 + 4096])
    frame[4:8] = bytes(4)  # not a commit
    assert committed_bytes(log + frame) == len(log)
    assert committed_bytes(log[:-1]) < len(log)


def test_cut_would_be_seen_one_byte_earlier(journal: Path) -> None:
    """The boundary is exact: a byte less and SQLite has lost a row."""
    path = journal.with_name(journal.name + "-wal")
    path.write_bytes(path.read_bytes()[: committed_bytes(path.read_bytes()) - 1])
    assert len(_rows(journal)) == 9


def test_nothing_to_tear_is_no_error(tmp_path: Path) -> None:
    """A run that was killed before its first commit has no log, or an empty one."""
    assert tear_log(tmp_path / "journal.sqlite", Random(1)) is None
    (tmp_path / "journal.sqlite-wal").touch()
    assert tear_log(tmp_path / "journal.sqlite", Random(1)) is None
