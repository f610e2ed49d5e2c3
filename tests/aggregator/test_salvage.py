"""What the chain proves is believed, wherever it lies; what it does not prove is only told."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from aggregator.journal_file import JournalFile
from aggregator.journal_head import Head
from aggregator.journal_rows import ChainedRow, Row, copy_of, row_of
from aggregator.journal_scan import connect, journalled
from aggregator.records import AbandonRecord
from aggregator.salvage import Salvage
from aggregator.update_file import RowCopies

N_ROWS = 6


class Copies(RowCopies):
    """Copies without files."""

    def __init__(self, *copies: bytes) -> None:
        self._all = copies

    def kept(self) -> Iterator[bytes]:
        yield from self._all


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of six rows."""
    path = tmp_path / "journal.sqlite"
    journal = JournalFile(path, None)
    journal.open()
    journal.append([row_of(AbandonRecord(round_id=i)) for i in range(1, N_ROWS + 1)])
    journal.confirm()
    journal.close()
    return path


def change(path: Path, statement: str) -> list[ChainedRow]:
    """Change the table; returns the rows as they were."""
    rows = list(journalled(path))
    with closing(connect(path, is_writable=True)) as connection:
        connection.execute(statement)
    return rows


@contextmanager
def salvaged(path: Path, head: Head | None, *copies: bytes) -> Iterator[Salvage]:
    """Salvage a journal."""
    salvage = Salvage(path, head, Copies(*copies))
    try:
        yield salvage
    finally:
        salvage.close()


def test_whole_journal_is_proved_to_its_end(path: Path) -> None:
    """Row for row as it was written, as often as it is asked."""
    rows = list(journalled(path))
    with salvaged(path, rows[-1].end) as salvage:
        assert list(salvage.rows()) == list(salvage.rows()) == rows
        assert (salvage.end, salvage.mended, list(salvage.unproved(N_ROWS))) == (rows[-1].end, (), [])


@pytest.mark.parametrize("seq", [1, 3, N_ROWS])
def test_damaged_checksum_is_contradicted_by_what_was_chained_to_the_row(path: Path, seq: int) -> None:
    """By the next row, or for the last one by the head file."""
    rows = change(path, f"UPDATE journal SET checksum = zeroblob(32) WHERE seq = {seq}")
    with salvaged(path, rows[-1].end) as salvage:
        assert (list(salvage.rows()), salvage.mended) == (rows, (seq,))
    with salvaged(path, None) as salvage:
        assert salvage.end.seq == (N_ROWS if seq < N_ROWS else N_ROWS - 1)


@pytest.mark.parametrize("damage", ["DELETE FROM journal WHERE seq = 4", "UPDATE journal SET body = 7 WHERE seq = 4"])
def test_row_comes_back_from_its_copy_alone(path: Path, damage: str) -> None:
    """With it everything after it is proved again; without it nothing is, though it stands there."""
    rows = change(path, damage)
    with salvaged(path, rows[-1].end, copy_of([rows[3]])) as salvage:
        assert (list(salvage.rows()), salvage.mended) == (rows, (4,))
    with salvaged(path, rows[-1].end) as salvage:
        assert salvage.end == rows[2].end
        assert [seq for seq, _ in salvage.unproved(3)] == [4, 5, 6]
        assert [row for _, row in salvage.unproved(4)] == [each.row for each in rows[4:]]


def test_forged_copy_is_not_believed(path: Path) -> None:
    """Only what fits the chain on both sides was ever written."""
    rows = change(path, "DELETE FROM journal WHERE seq >= 4")
    forged = Row("abandon", None, '{"round_id": 99}', None)
    claims = ChainedRow(Head(4, rows[3].end.checksum), forged)
    chained = ChainedRow(forged.chained(rows[2].end), forged)
    with salvaged(path, rows[3].end, copy_of([claims]), copy_of([chained]), b"[[]]", b"{", b"7") as salvage:
        assert salvage.end == rows[2].end


def test_row_that_the_head_contradicts_is_not_believed(path: Path) -> None:
    """Another journal was put in its place: it is whole, and not the one that the head knows."""
    rows = list(journalled(path))
    with salvaged(path, Head(5, bytes(32))) as salvage:
        assert salvage.end == rows[3].end


def test_table_that_is_no_database_holds_nothing(tmp_path: Path) -> None:
    """And is no error: everything it said is unreadable."""
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database" * 100)
    with salvaged(path, Head(2, bytes(32))) as salvage:
        assert (salvage.end, list(salvage.unproved(0))) == (Head(), [(1, None), (2, None)])
        assert salvage.clock_text is None


def test_rows_after_a_gap_are_believed_for_the_checksum_before_them(path: Path) -> None:
    """A changed row costs itself, a lost checksum the next row as well; what the head contradicts is never believed."""
    rows = change(path, "UPDATE journal SET body = 7 WHERE seq = 3")
    with salvaged(path, rows[-1].end) as salvage:
        assert list(salvage.around_gaps()) == [(each.end.seq, None if each.end.seq == 3 else each.row) for each in rows]
    with salvaged(path, Head(N_ROWS, bytes(32))) as salvage:
        assert list(salvage.around_gaps())[-1] == (N_ROWS, None)
    with closing(connect(path, is_writable=True)) as connection:
        connection.execute("DELETE FROM journal WHERE seq = 3")
    with salvaged(path, rows[-1].end) as salvage:
        assert [seq for seq, row in salvage.around_gaps() if row is None] == [3, 4]


def test_rows_of_which_nobody_was_told_end_with_the_first_that_is_lost(path: Path) -> None:
    """What follows it is no gap: it never took effect."""
    rows = change(path, "UPDATE journal SET body = 7 WHERE seq = 5")
    with salvaged(path, rows[3].end) as salvage:
        assert list(salvage.around_gaps()) == [(each.end.seq, each.row) for each in rows[:4]]


def test_rows_are_yielded_to_the_one_that_is_named(path: Path) -> None:
    """And not beyond."""
    rows = list(journalled(path))
    with salvaged(path, rows[-1].end) as salvage:
        assert list(salvage.rows_to(4)) == rows[:4]
