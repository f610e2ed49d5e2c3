"""The journal on disk, beside what `test_journal.py` says of it: copies of rows, and the clock.

Every damage is tried in `test_journal_file_damage.py`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from aggregator.journal_file import JournalFile
from aggregator.journal_rows import copies_of, row_of
from aggregator.records import OutcomeRecord, Record, RoundClock
from aggregator.update_file import RowCopies
from shared.errors import InvalidState
from shared.messages import Outcome
from tests.aggregator.builders import a_lease, an_accept, lease_name

CLOCK = RoundClock(round_id=3, left_s=41.5, n_extensions=1, wall_s=1.7e9)


class Copies(RowCopies):
    """Copies in memory.

    Args:
        error: raised instead of keeping one.
    """

    def __init__(self, error: OSError | None = None) -> None:
        self.all: dict[str, bytes] = {}
        self._error = error

    def keep(self, lease: str, copy: bytes) -> None:
        if self._error is not None:
            raise self._error
        self.all[lease] = copy

    def kept(self) -> Iterator[bytes]:
        yield from self.all.values()


def a_journal(path: Path, copies: RowCopies | None = None) -> JournalFile:
    """Return an open journal."""
    journal = JournalFile(path / "journal.sqlite", copies)
    journal.open()
    return journal


def append(journal: JournalFile, *records: Record) -> None:
    """Make rows durable."""
    journal.append([row_of(record) for record in records])
    journal.confirm()


def kinds(copy: bytes) -> list[tuple[int, str]]:
    """Return the rows of a copy by place and kind."""
    return [(each.end.seq, each.row.kind) for each in copies_of(copy)]


@pytest.mark.parametrize("is_reopened", [False, True])
def test_accepted_update_in_a_file_gets_a_copy_of_its_rows(tmp_path: Path, is_reopened: bool) -> None:
    """LEASE and ACCEPT, at their places, also after a restart between them; an inline one needs none."""
    copies = Copies()
    journal = a_journal(tmp_path, copies)
    append(journal, a_lease(1), a_lease(2, "d2"))
    if is_reopened:
        journal.close()
        journal = a_journal(tmp_path, copies)
    append(journal, an_accept(number=2), replace(an_accept(number=1), data=None))
    journal.close()
    assert {lease: kinds(copy) for lease, copy in copies.all.items()} == {lease_name(1): [(1, "lease"), (4, "accept")]}


def test_leases_that_have_ended_are_forgotten(tmp_path: Path) -> None:
    """What is remembered for copies does not grow with the run."""
    journal = a_journal(tmp_path, Copies())
    append(journal, a_lease(1), a_lease(2, "d2"), a_lease(3, "d3"))
    outcome = OutcomeRecord(lease=lease_name(2), outcome=Outcome.DISCARDED)
    append(journal, replace(an_accept(number=1), data=None), outcome, an_accept(number=3))
    assert journal._lease_seqs == {}
    journal.close()


def test_copy_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    """The row is durable, and a warning says that nothing stands behind it."""
    journal = a_journal(tmp_path, Copies(OSError(28, "No space left on device")))
    with capture_logs() as logs:
        append(journal, a_lease(1), replace(an_accept(number=1), data=None))
    journal.close()
    assert [(line["event"], line["lease"]) for line in logs] == [("row_not_copied", lease_name(1))]
    a_journal(tmp_path).close()


@pytest.mark.parametrize("damage", ["replace(body, '41.5', '91.5')", "'{}'", "x'ff'", "7"])
def test_damaged_clock_is_none_and_said(tmp_path: Path, damage: str) -> None:
    """It decides no bit of the model: the window begins anew."""
    journal = a_journal(tmp_path)
    journal.store_clock(CLOCK)
    journal.close()
    journal = a_journal(tmp_path)
    assert journal.clock == CLOCK
    journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute(f"UPDATE clock SET body = {damage}")
    with capture_logs() as logs:
        journal = a_journal(tmp_path)
    assert journal.clock is None
    assert [line["event"] for line in logs] == ["clock_lost"]
    journal.close()


def test_closed_journal_takes_nothing(tmp_path: Path) -> None:
    """A mistake of ours; closing it again is none."""
    journal = a_journal(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(InvalidState):
        append(journal, a_lease())
