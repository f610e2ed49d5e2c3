"""A row, its place in the chain, and its copy."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.journal_head import Head
from aggregator.journal_rows import ChainedRow, Row, copies_of, copy_of, lies_in_file, record_of, row_of
from aggregator.records import AbandonRecord
from shared.errors import InvalidState
from tests.aggregator.builders import a_lease, an_accept

LEASE = row_of(a_lease())
ACCEPT = row_of(replace(an_accept(), data=None))


def chained(*rows: Row) -> list[ChainedRow]:
    """Return rows in a chain of their own."""
    found, end = [], Head()
    for row in rows:
        end = row.chained(end)
        found.append(ChainedRow(end, row))
    return found


def test_copy_of_rows_gives_the_same_rows() -> None:
    """With their places, so that the chain can prove them."""
    rows = chained(LEASE, ACCEPT)
    assert copies_of(copy_of(rows)) == rows
    assert rows[0].follows(Head())
    assert rows[1].follows(rows[0].end)
    assert not rows[1].follows(Head())


NESTED = st.recursive(st.none() | st.integers() | st.text(), st.lists)


@given(st.binary(max_size=40) | NESTED.map(lambda found: json.dumps(found).encode()))
def test_what_is_no_copy_holds_no_row(copy: bytes) -> None:
    """Whatever stands behind an update is read without an error, and proves nothing."""
    assert not any(row.follows(Head()) for row in copies_of(copy))


@pytest.mark.parametrize(
    "other",
    [
        replace(ACCEPT, kind="lease"),
        replace(ACCEPT, lease=None),
        replace(ACCEPT, body=ACCEPT.body.replace("1.0", "1.5")),
        replace(ACCEPT, data=b""),
        replace(ACCEPT, kind=ACCEPT.kind + "x", body=ACCEPT.body[1:]),
    ],
)
def test_every_column_is_in_the_checksum(other: Row) -> None:
    """An empty update is not a missing one, and a byte that moves from one column to the next is noticed."""
    assert other.chained(Head()) != ACCEPT.chained(Head())


def test_place_of_a_row_is_in_its_checksum() -> None:
    """The same row somewhere else is another one."""
    assert ACCEPT.chained(Head(4, bytes(32))).checksum != ACCEPT.chained(Head(5, bytes(32))).checksum


def test_only_an_update_that_did_not_come_inline_lies_in_a_file() -> None:
    """An inline one is in its row, whatever its size."""
    assert lies_in_file(ACCEPT)
    assert not lies_in_file(row_of(an_accept()))
    assert not lies_in_file(LEASE)


@pytest.mark.parametrize(
    "row", [Row("strange", None, "{}", None), Row("abandon", None, "[]", None), Row("abandon", None, "{", None)]
)
def test_row_of_another_version_is_refused(row: Row) -> None:
    """It is not guessed at."""
    with pytest.raises(InvalidState, match="version of FedMQ"):
        record_of(row)
    assert record_of(row_of(AbandonRecord(round_id=3))) == AbandonRecord(round_id=3)
