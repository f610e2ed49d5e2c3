"""Grants: the budget holds whatever devices do, fast uploads get more, stalled ones go to the end of the queue."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.uploads import (
    FIRST_CHUNK_S,
    FIRST_GRANT,
    LARGEST_GRANT,
    LONGEST_GAP_S,
    MAX_OFFERS,
    SHORTEST_STALL_S,
    STALL_GAPS,
    Grant,
    Uploads,
)
from shared.chunking import Bitmap, ChunkLayout
from shared.errors import PeerError, Reason
from shared.messages import MAX_GRANT_RANGES
from tests.aggregator.builders import lease_name

CHUNK = 4096
A, B, C = lease_name(1), lease_name(2), lease_name(3)
SHA = "a" * 64


def a_layout(n_chunks: int, chunk_bytes: int = CHUNK) -> ChunkLayout:
    """Return an update of so many full chunks."""
    return ChunkLayout(n_chunks * chunk_bytes, chunk_bytes)


def some_uploads(*, max_bytes: int = 2**25, max_chunks: int = 500) -> Uploads:
    """Return a queue with nothing in it."""
    return Uploads(max_bytes=max_bytes, max_chunks=max_chunks)


def indexes(grants: list[Grant], lease: str = A) -> list[int]:
    """Return the chunks that are granted to a lease."""
    ranges = [pair for grant in grants if grant.lease == lease for pair in grant.ranges]
    return [index for first, last in ranges for index in range(first, last + 1)]


def send(uploads: Uploads, chunks: list[int], now: float, lease: str = A) -> None:
    """Let chunks arrive."""
    for index in chunks:
        uploads.arrive(lease, index, CHUNK, now)


def test_first_grant_is_four_chunks_and_doubles_while_fast() -> None:
    """4, 8, 16, 32, 64, 64: each grant that half arrived within two seconds doubles the next."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(1000))
    sizes, granted = [], indexes(uploads.grants(0.0))
    for second in range(1, 7):
        sizes.append(len(granted))
        send(uploads, granted, float(second))
        granted = indexes(uploads.grants(float(second)))
    assert sizes == [4, 8, 16, 32, LARGEST_GRANT, LARGEST_GRANT]


def test_slow_upload_keeps_its_small_grant() -> None:
    """A grant that takes three seconds is followed by one of the same size."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(1000))
    for i in range(5):
        granted = indexes(uploads.grants(3.0 * i))
        assert len(granted) == FIRST_GRANT
        send(uploads, granted[:2], 3.0 * i + 1.5)
        send(uploads, granted[2:], 3.0 * i + 3.0)


def test_next_grant_comes_when_half_has_arrived() -> None:
    """One of four is not enough, two of four are: the pipe never runs dry."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(100))
    granted = indexes(uploads.grants(0.0))
    send(uploads, granted[:1], 5.0)
    assert uploads.grants(5.0) == []
    send(uploads, granted[1:2], 6.0)
    assert indexes(uploads.grants(6.0)) == [4, 5, 6, 7]


def test_everything_is_granted_once_and_then_no_more() -> None:
    """Seven chunks: four, then three; when all are there, nothing is asked for."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(7))
    asked: list[int] = []
    for second in range(4):
        granted = indexes(uploads.grants(float(second)))
        asked += granted
        send(uploads, granted, float(second))
    assert asked == list(range(7))
    assert uploads.deadline is None
    upload = uploads.get(A)
    assert upload is not None
    assert upload.arrived.is_full


def test_budget_serves_offers_in_order_of_arrival() -> None:
    """Nine chunks may be out: two offers get four each; the third waits until four can be granted, not in crumbs."""
    uploads = some_uploads(max_chunks=9)
    for lease in (A, B, C):
        uploads.offer(lease, SHA, a_layout(10))
    grants = uploads.grants(0.0)
    assert [(grant.lease, grant.ranges) for grant in grants] == [(A, [(0, 3)]), (B, [(0, 3)])]
    send(uploads, [0, 1], 1.0, B)
    assert uploads.grants(1.0) == []
    send(uploads, [2], 1.0, B)
    assert [grant.lease for grant in uploads.grants(1.0)] == [B]  # before C: it came first


def test_budget_of_less_than_a_grant_is_used_when_nothing_is_out() -> None:
    """Or nothing would ever come."""
    uploads = some_uploads(max_chunks=2)
    uploads.offer(A, SHA, a_layout(3))
    for last in (1, 2):
        granted = indexes(uploads.grants(0.0))
        assert granted == ([0, 1] if last == 1 else [2])
        send(uploads, granted, 0.0, A)


def test_budget_is_in_bytes_too() -> None:
    """Chunks of 64 KiB under a budget of 256 KiB: four are out, the next upload waits."""
    uploads = some_uploads(max_bytes=4 * 65_536)
    uploads.offer(A, SHA, a_layout(10, 65_536))
    uploads.offer(B, SHA, a_layout(10, 65_536))
    assert [grant.lease for grant in uploads.grants(0.0)] == [A]
    assert uploads.granted_bytes == 4 * 65_536


def test_what_waits_for_the_disk_counts_against_the_budget() -> None:
    """It is in memory: a disk that is slower than the network slows the devices down, not the aggregator."""
    uploads = some_uploads(max_bytes=10 * CHUNK)
    uploads.offer(A, SHA, a_layout(100))
    assert uploads.grants(0.0, unwritten_bytes=10 * CHUNK) == []
    assert indexes(uploads.grants(0.0, unwritten_bytes=7 * CHUNK)) == [0, 1, 2]
    assert uploads.is_granted(A, 2)
    assert not uploads.is_granted(A, 3)
    assert not uploads.is_granted(B, 0)


def test_slow_device_holds_a_few_chunks_not_a_slot() -> None:
    """One device that sends nothing holds four chunks of the budget; ten others finish past it."""
    uploads = some_uploads(max_chunks=20)
    uploads.offer(A, SHA, a_layout(100))
    uploads.grants(0.0)
    others = [lease_name(10 + i) for i in range(10)]
    for lease in others:
        uploads.offer(lease, SHA, a_layout(20))
    now = 0.0
    while any(uploads.get(lease) is not None for lease in others):
        now += 0.1
        for grant in uploads.grants(now):
            send(uploads, indexes([grant], grant.lease), now, grant.lease)
        for lease in others:
            upload = uploads.get(lease)
            if upload is not None and upload.arrived.is_full:
                uploads.release(lease)
    assert now < FIRST_CHUNK_S
    slow = uploads.get(A)
    assert slow is not None
    assert len(slow.granted) == FIRST_GRANT


def test_upload_without_a_first_chunk_stalls_after_thirty_seconds() -> None:
    """Its grant is void at 30 s, and asked for again behind the others."""
    uploads = some_uploads(max_chunks=4)
    uploads.offer(A, SHA, a_layout(10))
    uploads.offer(B, SHA, a_layout(10))
    assert [grant.lease for grant in uploads.grants(0.0)] == [A]
    assert uploads.deadline == FIRST_CHUNK_S
    assert uploads.grants(FIRST_CHUNK_S - 0.1) == []
    assert [grant.lease for grant in uploads.grants(FIRST_CHUNK_S)] == [B]


def test_stall_is_four_times_the_slowest_gap_but_at_least_two_seconds() -> None:
    """Gaps of 0.1 s: two seconds. A gap of 5 s: twenty. A gap of an hour counts as thirty seconds."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(100))
    uploads.grants(0.0)
    send(uploads, [0], 10.0)
    assert uploads.deadline == 10.0 + SHORTEST_STALL_S
    send(uploads, [1], 10.1)
    assert uploads.deadline == pytest.approx(10.1 + SHORTEST_STALL_S)
    send(uploads, [2], 15.1)
    assert uploads.deadline == pytest.approx(15.1 + STALL_GAPS * 5.0)
    send(uploads, [50], 3700.0)
    upload = uploads.get(A)
    assert upload is not None
    assert upload.slowest_gap_s == LONGEST_GAP_S


def test_chunk_of_a_void_grant_still_counts() -> None:
    """It was asked for and is good: not asked for again."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(6))
    uploads.grants(0.0)
    uploads.offer(A, SHA, a_layout(6))  # reconnected: what was granted is void
    assert uploads.arrive(A, 0, CHUNK, 1.0)
    assert indexes(uploads.grants(1.0)) == [1, 2, 3, 4]


def test_same_offer_again_keeps_place_and_chunks_and_voids_grants() -> None:
    """A device that reconnected starts with what has arrived, at its old place in the queue."""
    uploads = some_uploads(max_chunks=4)
    uploads.offer(A, SHA, a_layout(10))
    uploads.offer(B, SHA, a_layout(10))
    send(uploads, indexes(uploads.grants(0.0))[:2], 1.0)
    assert not uploads.offer(A, SHA, a_layout(10))
    assert uploads.granted_chunks == 0
    grants = uploads.grants(2.0)
    assert [(grant.lease, grant.ranges) for grant in grants] == [(A, [(2, 5)])]


def test_other_content_starts_anew_at_most_eight_times() -> None:
    """The eighth content is taken, the ninth refused; the first seven are forgotten."""
    uploads = some_uploads()
    for i in range(MAX_OFFERS):
        assert uploads.offer(A, f"{i:064x}", a_layout(10))
        send(uploads, indexes(uploads.grants(float(i)))[:1], float(i))
    with pytest.raises(PeerError) as caught:
        uploads.offer(A, "f" * 64, a_layout(10))
    assert caught.value.reason is Reason.OFFERS


def test_other_chunk_size_starts_anew() -> None:
    """The same bytes in smaller chunks are another offer: a device with a thin link halves them."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(4, 2 * CHUNK))
    uploads.arrive(A, 0, 2 * CHUNK, 0.0)
    assert uploads.offer(A, SHA, a_layout(8))
    assert indexes(uploads.grants(0.0)) == [0, 1, 2, 3]


def test_offer_after_a_restart_goes_on_where_the_file_stands() -> None:
    """What the part file holds is not asked for; then there is no need to begin it anew."""
    uploads = some_uploads()
    have = Bitmap(6)
    for index in (0, 1, 4):
        have.add(index)
    assert not uploads.offer(A, SHA, a_layout(6), have)
    assert uploads.grants(0.0) == [Grant(A, [(2, 3), (5, 5)])]


def test_whole_that_does_not_match_is_granted_again() -> None:
    """All chunks are missing again."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(3))
    send(uploads, indexes(uploads.grants(0.0)), 0.5)
    uploads.again(A)
    assert indexes(uploads.grants(1.0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("lease", "index", "n_bytes"),
    [(B, 0, CHUNK), (A, 3, CHUNK), (A, 0, CHUNK - 1), (A, 0, CHUNK + 1), (A, 2, CHUNK), (A, 0, 0)],
)
def test_chunk_that_is_none_is_refused(lease: str, index: int, n_bytes: int) -> None:
    """Never offered, outside of the upload, or of the wrong length: refused, and nothing changes."""
    uploads = some_uploads()
    uploads.offer(A, SHA, ChunkLayout(2 * CHUNK + 100, CHUNK))
    uploads.grants(0.0)
    before = (uploads.granted_chunks, uploads.granted_bytes)
    with pytest.raises(PeerError) as caught:
        uploads.arrive(lease, index, n_bytes, 1.0)
    assert caught.value.reason is Reason.CHUNK
    assert (uploads.granted_chunks, uploads.granted_bytes) == before


def test_chunk_that_is_there_is_ignored() -> None:
    """A duplicate changes nothing."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(10))
    uploads.grants(0.0)
    assert uploads.arrive(A, 0, CHUNK, 1.0)
    assert not uploads.arrive(A, 0, CHUNK, 1.0)


def test_grant_has_no_more_ranges_than_a_receipt_holds() -> None:
    """Every second chunk is there: what is missing is asked for in receipts of 32 ranges."""
    uploads = some_uploads()
    have = Bitmap(400)
    for index in range(0, 400, 2):
        have.add(index)
    uploads.offer(A, SHA, a_layout(400), have)
    for second in range(20):
        for grant in uploads.grants(second * 0.1):
            assert len(grant.ranges) <= MAX_GRANT_RANGES
            send(uploads, indexes([grant]), second * 0.1)
    upload = uploads.get(A)
    assert upload is not None
    assert upload.arrived.is_full


def test_release_gives_the_budget_back() -> None:
    """Nothing more is wanted under a lease: twice does no harm."""
    uploads = some_uploads()
    uploads.offer(A, SHA, a_layout(10))
    uploads.grants(0.0)
    uploads.release(A)
    uploads.release(A)
    assert (uploads.granted_bytes, uploads.granted_chunks, uploads.deadline) == (0, 0, None)


@given(seed=st.integers(0, 2**32), max_chunks=st.integers(1, 40), max_chunk_bytes=st.sampled_from([4096, 8192]))
def test_budget_is_never_exceeded(seed: int, max_chunks: int, max_chunk_bytes: int) -> None:
    """Whatever devices offer, send, repeat and drop: what is granted stays in the budget, and its sum is right."""
    rng = Random(seed)
    uploads = some_uploads(max_bytes=16 * 4096, max_chunks=max_chunks)
    leases = [lease_name(i) for i in range(6)]
    now = 0.0
    for _ in range(120):
        now += rng.choice([0.0, 0.1, 1.0, 40.0])
        lease = rng.choice(leases)
        upload = uploads.get(lease)
        what = rng.random()
        if what < 0.2:
            layout = ChunkLayout(rng.randrange(1, 30 * 4096), rng.choice([4096, max_chunk_bytes]))
            try:
                uploads.offer(lease, rng.choice([SHA, "b" * 64]), layout)
            except PeerError:
                uploads.release(lease)
        elif what < 0.7 and upload is not None:
            index = rng.choice([*upload.granted, rng.randrange(len(upload.layout))])
            uploads.arrive(lease, index, upload.layout.length(index), now)
        elif what < 0.75:
            uploads.release(lease)
        elif what < 0.8 and upload is not None:
            uploads.again(lease)
        uploads.grants(now)
        granted = [(each.layout, index) for name in leases if (each := uploads.get(name)) for index in each.granted]
        assert uploads.granted_chunks == len(granted) <= max_chunks
        assert uploads.granted_bytes == sum(layout.length(index) for layout, index in granted) <= 16 * 4096
        assert uploads.deadline is None or uploads.deadline > now
