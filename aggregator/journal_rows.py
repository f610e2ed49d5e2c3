"""How a record lies in the journal: five columns, chained to the row before by a checksum.

A row is readable by people and queries: its body is JSON, only an inline update stands in a column of its own. The
checksum of a row covers every row before it, so a row that fits the chain is, to the bit, the one that was written,
wherever it was found: in the table, or as a copy at the end of an update file.

Not here: what records mean (`records.py`), the table itself (`journal_file.py`), where copies lie (`update_file.py`).
"""

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from aggregator.journal_head import Head
from aggregator.records import AcceptRecord, LeaseRecord, OutcomeRecord, Record
from shared.errors import InvalidState

__all__ = ["ChainedRow", "Row", "copies_of", "copy_of", "lies_in_file", "record_of", "row_of"]

_NAMES: dict[type[Any], str] = {kind: kind.__name__.removesuffix("Record").lower() for kind in get_args(Record)}
_READERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for kind, name in _NAMES.items()}
LEASE, ACCEPT, OUTCOME = _NAMES[LeaseRecord], _NAMES[AcceptRecord], _NAMES[OutcomeRecord]


@dataclass(frozen=True, slots=True)
class Row:
    """One row, but for its place in the chain."""

    kind: str
    lease: str | None
    body: str
    data: bytes | None

    def chained(self, before: Head) -> Head:
        """Return the end of the chain once this row follows `before`.

        Raises:
            TypeError, AttributeError: a column is not of its type, which only a damaged table can cause.
        """
        parts = [self.kind.encode(), (self.lease or "").encode(), self.body.encode(), self.data or b""]
        lengths = struct.pack("<Q4q?", before.seq + 1, *map(len, parts), self.data is None)
        return Head(before.seq + 1, hashlib.sha256(b"".join([before.checksum, lengths, *parts])).digest())


@dataclass(frozen=True, slots=True)
class ChainedRow:
    """A row at its place: `end` is the chain's end with it."""

    end: Head
    row: Row

    def follows(self, before: Head) -> bool:
        """Return whether this is the row that was written after `before`."""
        return self.end.seq == before.seq + 1 and self.row.chained(before) == self.end


def row_of(record: Record) -> Row:
    """Return a record as a row."""
    body = {field.name: getattr(record, field.name) for field in fields(record) if field.name != "data"}
    data = record.data if isinstance(record, AcceptRecord) else None
    return Row(_NAMES[type(record)], getattr(record, "lease", None), json.dumps(body), data)


def record_of(row: Row) -> Record:
    """Return a row as the record it is.

    Raises:
        InvalidState: it is none of ours: written by another version of FedMQ.
    """
    try:
        values = json.loads(row.body) | ({} if row.data is None else {"data": row.data})
        record: Record = _READERS[row.kind].validate_python(values)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InvalidState(f"no row of this version of FedMQ: {error}") from error
    return record


def lies_in_file(row: Row) -> bool:
    """Return whether this accepts an update that did not come inline, so that a file holds it."""
    return row.kind == ACCEPT and row.data is None


def copy_of(rows: Iterable[ChainedRow]) -> bytes:
    """Return rows without inline data as JSON."""
    return json.dumps(
        [[each.end.seq, each.end.checksum.hex(), each.row.kind, each.row.lease, each.row.body] for each in rows]
    ).encode()


def copies_of(copy: bytes) -> list[ChainedRow]:
    """Return the rows of a copy; [] when it is not one. Whether they are true, the chain says."""
    try:
        return [
            ChainedRow(Head(int(seq), bytes.fromhex(checksum)), Row(str(kind), lease, str(body), None))
            for seq, checksum, kind, lease, body in json.loads(copy)
        ]
    except (TypeError, ValueError):
        return []
