"""What can happen to the folder of a run while nobody serves it."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from aggregator.update_file import read_head
from tests.aggregator.killed_run import KilledRun

__all__ = ["change_row", "flip", "flip_update", "lose_rows", "spoil_settings_in_log", "sql"]


def sql(folder: Path, statement: str, *values: object) -> None:
    """Change the journal behind everybody's back."""
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute(statement, values)


def lose_rows(first: int) -> Callable[[Path, KilledRun], None]:
    """Return the damage that loses every row from one on."""
    return lambda folder, _: sql(folder, "DELETE FROM journal WHERE seq >= ?", first)


def spoil_settings_in_log(folder: Path) -> None:
    """Change the newest settings where the log holds them; which other rows it holds is a matter of pages."""
    log = folder / "journal.sqlite-wal"
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(
            "UPDATE journal SET body = '{}' WHERE seq = (SELECT max(seq) FROM journal WHERE kind = 'config')"
        )
        connection.commit()
        written = log.read_bytes()
    log.write_bytes(written)  # closing moves it into the database


def change_row(seq: int, column: str, value: object) -> Callable[[Path, KilledRun], None]:
    """Return the damage that changes a row."""
    return lambda folder, _: sql(folder, f"UPDATE journal SET {column} = ? WHERE seq = ?", value, seq)


def flip(path: Path, at: int | None = None) -> None:
    """Flip a bit of the byte at an offset of a file, by default near its end."""
    data = bytearray(path.read_bytes())
    data[len(data) * 9 // 10 if at is None else at] ^= 4
    path.write_bytes(data)


def flip_update(path: Path) -> None:
    """Flip a bit in the middle of an update, wherever in its file that lies."""
    with path.open("rb") as file:
        head = read_head(file)
    assert head is not None
    flip(path, (head.body_start + head.body_end) // 2)
