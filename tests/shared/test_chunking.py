import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.chunking import Bitmap, ChunkLayout, from_ranges, sha256_hex, to_ranges
from shared.errors import InvalidState


@given(st.binary(max_size=200), st.integers(1, 50))
def test_chunks_put_together_are_the_whole(data: bytes, chunk_bytes: int) -> None:
    """Every byte is in exactly one chunk; all but the last are full."""
    layout = ChunkLayout(len(data), chunk_bytes)
    chunks = [bytes(layout.cut(data, i)) for i in range(len(layout))]
    assert b"".join(chunks) == data
    assert [len(chunk) for chunk in chunks] == [layout.length(i) for i in range(len(layout))]
    assert all(len(chunk) == chunk_bytes for chunk in chunks[:-1])
    assert [layout.start(i) for i in range(len(layout))] == [i * chunk_bytes for i in range(len(layout))]


@pytest.mark.parametrize(("size", "n"), [(0, 1), (1, 1), (4096, 1), (4097, 2), (8192, 2)])
def test_nothing_is_one_empty_chunk_and_a_full_one_starts_no_other(size: int, n: int) -> None:
    """The edges of the division."""
    assert len(ChunkLayout(size, 4096)) == n


@pytest.mark.parametrize(("size", "chunk_bytes"), [(-1, 10), (1, 0), (1, -1)])
def test_an_impossible_layout_is_refused(size: int, chunk_bytes: int) -> None:
    """Neither less than nothing, nor pieces of nothing."""
    with pytest.raises(InvalidState):
        ChunkLayout(size, chunk_bytes)


def test_a_chunk_that_is_not_there_is_refused() -> None:
    """Before the first, behind the last, and of data of another length."""
    layout = ChunkLayout(10, 4)
    for index in (-1, 3):
        with pytest.raises(InvalidState, match="of 3"):
            layout.length(index)
        with pytest.raises(InvalidState, match="of 3"):
            layout.cut(bytes(10), index)
    with pytest.raises(InvalidState, match="9 bytes are cut by a layout of 10"):
        layout.cut(bytes(9), 0)


@given(st.integers(0, 70), st.data())
def test_a_bitmap_is_the_set_of_what_was_added(n: int, data: st.DataObject) -> None:
    """`add` says what is new, the rest is missing, and bytes carry it all over a restart."""
    added = data.draw(st.lists(st.integers(0, n - 1))) if n else []
    bitmap, known = Bitmap(n), set[int]()
    for index in added:
        assert bitmap.add(index) is (index not in known)
        known.add(index)
    again = Bitmap(n, bitmap.to_bytes())
    for each in (bitmap, again):
        assert {i for i in range(-1, n + 9) if i in each} == known
        assert list(each.missing()) == sorted(set(range(n)) - known)
        assert each.n_set == len(known)
        assert each.is_full is (len(known) == n)
    bitmap.clear()
    assert bitmap.n_set == 0
    assert list(bitmap.missing()) == list(range(n))


def test_a_bitmap_is_eight_chunks_a_byte_lowest_bit_first() -> None:
    """By hand: chunks 0, 3 and 9 of 10 are 0b00001001, 0b00000010."""
    bitmap = Bitmap(10)
    for index in (0, 3, 9):
        bitmap.add(index)
    assert bitmap.to_bytes() == bytes([0b1001, 0b10])


@pytest.mark.parametrize(("n", "bits"), [(-1, None), (8, b""), (8, b"\0\0"), (9, b"\0\2"), (0, b"\0"), (3, b"\x08")])
def test_bytes_that_are_no_bitmap_are_refused(n: int, bits: bytes | None) -> None:
    """Of another length, or with chunks behind the last."""
    with pytest.raises(InvalidState):
        Bitmap(n, bits)


@pytest.mark.parametrize("index", [-1, 10])
def test_a_chunk_outside_is_not_added(index: int) -> None:
    """A negative index is no chunk from the end."""
    with pytest.raises(InvalidState):
        Bitmap(10).add(index)


@given(st.sets(st.integers(0, 300)), st.integers(0, 40))
def test_ranges_name_the_first_chunks_and_only_those(indexes: set[int], at_most: int) -> None:
    """As many as fit into so many ranges, in ascending order; with enough ranges all of them."""
    ranges = to_ranges(sorted(indexes), at_most=at_most)
    named = from_ranges(ranges, n=301)
    assert len(ranges) <= at_most
    assert named == sorted(indexes)[: len(named)]
    assert all(first <= last for first, last in ranges)
    assert from_ranges(to_ranges(sorted(indexes), at_most=301), n=301) == sorted(indexes)


def test_ranges_by_hand() -> None:
    """0 1 2, 5, 7 8 in two ranges are [0, 2] and [5, 5]."""
    assert to_ranges([0, 1, 2, 5, 7, 8], at_most=2) == [(0, 2), (5, 5)]


def test_foreign_ranges_name_no_chunk_twice_and_none_that_is_not_there() -> None:
    """Overlapping, reversed and endless ranges cost no more than the chunks there are."""
    assert from_ranges([(2, 3), (0, 2**53), (3, 1)], n=5) == [2, 3, 0, 1, 4]
    assert from_ranges([(2**40, 2**53)], n=5) == []


def test_a_digest_is_that_of_sha_256() -> None:
    """In lower-case hex, of any kind of bytes."""
    assert sha256_hex(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()
