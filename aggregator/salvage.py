"""What of a damaged journal can still be proved, row by row.

A row is believed when it fits the chain, wherever it was found: in the table, in the table under a damaged checksum
that the next row or the head file contradicts, or as a copy behind an update file. The first row for which no proof is
left ends what is proved; what stands after it can only be told, not believed.

Works on a copy of the database and its log: reading may change them.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from aggregator.journal_head import Head
from aggregator.journal_rows import ChainedRow, Row, copies_of
from aggregator.journal_scan import TornTable
from aggregator.update_file import RowCopies

__all__ = ["Salvage"]


class Salvage:
    """The rows of one damaged journal.

    Args:
        path: of a copy of the database.
        head: what the head file says, None when it says nothing.
        copies: behind the update files.
    """

    def __init__(self, path: Path, head: Head | None, copies: RowCopies) -> None:
        self._table, self._head = TornTable(path), head
        self._copies: dict[int, list[ChainedRow]] = {}
        for copy in copies.kept():
            for row in copies_of(copy):
                self._copies.setdefault(row.end.seq, []).append(row)
        self.end = Head()
        """Of what is proved."""
        mended = []
        for row in self.rows():
            self.end = row.end
            if self._as_it_stands(row.end.seq) != (row.row, row.end.checksum):
                mended.append(row.end.seq)
        self.mended = tuple(mended)
        """Rows that are proved and do not stand in the table as they were written."""

    def rows(self) -> Iterator[ChainedRow]:
        """Yield what is proved, from the first row on."""
        end = Head()
        while (row := self._after(end)) is not None:
            yield row
            end = row.end

    def rows_to(self, last_seq: int) -> Iterator[ChainedRow]:
        """Yield what is proved, from the first row to one of them."""
        return takewhile(lambda each: each.end.seq <= last_seq, self.rows())

    def around_gaps(self) -> Iterator[tuple[int, Row | None]]:
        """Yield every row, None for one that is lost; after it, one is believed that fits the checksum stored before.

        Damage cannot make a row fit. The row that the head file names has to fit that, too.
        """
        end = Head()
        for seq in range(1, self.last_seq + 1):
            found = self._after(end)
            if found is not None:
                yield seq, found.row
                end = found.end
                continue
            if self._head is not None and seq > self._head.seq:
                return  # nobody has been told of it, nor of what follows
            yield seq, None
            stored = self._as_it_stands(seq)
            end = Head(seq, stored[1] if stored is not None and isinstance(stored[1], bytes) else b"")

    def unproved(self, after: int) -> Iterator[tuple[int, Row | None]]:
        """Yield the rows after `after` as they stand, None for one that cannot be read, to the last that there was."""
        for seq in range(after + 1, self.last_seq + 1):
            found = self._as_it_stands(seq)
            yield seq, None if found is None else found[0]

    def copied(self) -> Iterator[tuple[Row, ...]]:
        """Yield the rows behind each update file; a damaged journal no longer proves them."""
        seen: dict[str, list[Row]] = {}
        for rows in self._copies.values():
            for each in rows:
                seen.setdefault(each.row.lease or "", []).append(each.row)
        yield from map(tuple, seen.values())

    @property
    def last_seq(self) -> int:
        """Of the last row that the table has, or the head file names."""
        return max(self._table.last_seq, self._head.seq if self._head is not None else 0)

    @property
    def clock_text(self) -> object:
        """The stored clock as it stands; None: there is none."""
        return self._table.clock_text

    def close(self) -> None:
        """Close the table."""
        self._table.close()

    def _as_it_stands(self, seq: int) -> tuple[Row, object] | None:
        return self._table.row(seq)

    def _after(self, end: Head) -> ChainedRow | None:
        found = self._as_it_stands(end.seq + 1)
        if found is not None:
            row, checksum = found
            after = _chained(row, end)
            if after is not None and (after.checksum == checksum or self._is_confirmed(after)) and self._is_true(after):
                return ChainedRow(after, row)
        copies = self._copies.get(end.seq + 1, ())
        return next((copy for copy in copies if copy.follows(end) and self._is_true(copy.end)), None)

    def _is_true(self, end: Head) -> bool:
        """Return whether the head file does not say otherwise."""
        return self._head is None or self._head.seq != end.seq or self._head == end

    def _is_confirmed(self, end: Head) -> bool:
        """Return whether something that was written later was chained to this."""
        if self._head is not None and self._head == end:
            return True
        found = self._as_it_stands(end.seq + 1)
        if found is None:
            return False
        after = _chained(found[0], end)
        return after is not None and after.checksum == found[1]


def _chained(row: Row, before: Head) -> Head | None:
    try:
        return row.chained(before)
    except (AttributeError, TypeError):
        return None
