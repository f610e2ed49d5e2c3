from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from edge_client.upload import LEAST_CHUNK_BYTES, MAX_OUTSTANDING, LinkPace, Upload
from shared.chunking import ChunkLayout


def an_upload(n_chunks: int = 100, pace: LinkPace | None = None) -> Upload:
    """An upload in chunks of 4096 bytes."""
    return Upload(ChunkLayout(4096 * n_chunks, 4096), pace or LinkPace(60))


def sent(upload: Upload, now: float = 0.0) -> list[int]:
    """Send all that may be sent now."""
    found = []
    while (index := upload.next(now)) is not None:
        found.append(index)
    return found


def test_nothing_is_sent_before_it_is_granted() -> None:
    """An offer alone sends no chunk."""
    assert sent(an_upload()) == []


def test_window_doubles_with_every_puback_up_to_sixteen() -> None:
    """One chunk outstanding at first; each clean PUBACK doubles how many may be."""
    upload = an_upload()
    upload.grant([(0, 99)])
    outstanding = sent(upload)
    sizes = [len(outstanding)]
    for _ in range(6):
        upload.acknowledged(outstanding.pop(0), 0.01)
        outstanding += sent(upload, 0.01)
        sizes.append(len(outstanding))
    assert sizes == [1, 2, 4, 8, 16, 16, 16]
    assert MAX_OUTSTANDING == 16


def test_grant_of_what_is_outstanding_is_ignored() -> None:
    """A chunk whose PUBACK is still out is not sent again, however often it is asked for."""
    upload = an_upload()
    upload.grant([(0, 1)])
    assert sent(upload) == [0]
    upload.grant([(0, 1)])
    upload.acknowledged(0, 1.0)
    assert sent(upload, 1.0) == [1]


def test_acknowledged_chunk_may_be_asked_for_again() -> None:
    """PUBACK proves nothing: the aggregator says what it has."""
    upload = an_upload()
    upload.grant([(0, 0)])
    sent(upload)
    upload.acknowledged(0, 1.0)
    assert upload.is_drained
    upload.grant([(0, 0)])
    assert sent(upload, 2.0) == [0]


def test_grant_beyond_the_end_is_ignored() -> None:
    """A grant names chunks of the offer; there are no others."""
    upload = an_upload(3)
    upload.grant([(2, 900_000_000)])
    assert sent(upload) == [2]


def test_stopped_upload_sends_nothing_more() -> None:
    """What is under way ends; the rest stays."""
    upload = an_upload()
    upload.grant([(0, 99)])
    sent(upload)
    upload.stop()
    upload.acknowledged(0, 1.0)
    assert sent(upload, 1.0) == []
    assert upload.is_drained


def test_slow_link_keeps_little_outstanding() -> None:
    """chunk_bytes x outstanding stays under keepalive x rate / 2: 1 kB/s and 60 s make 30 kB, seven chunks."""
    upload = an_upload()
    upload.grant([(0, 99)])
    now, outstanding = 0.0, sent(upload)
    for _ in range(30):
        now += 4.096 * len(outstanding)
        upload.acknowledged(outstanding.pop(0), now)
        outstanding += sent(upload, now)
    assert 1 <= len(outstanding) <= 8


def test_one_chunk_goes_however_slow_the_link() -> None:
    """A link of 10 B/s still moves: with nothing outstanding one chunk may go."""
    pace = LinkPace(60)
    pace.acknowledged(10, 1.0)
    upload = an_upload(pace=pace)
    upload.grant([(0, 99)])
    assert sent(upload) == [0]


def chosen(pace: LinkPace, *, fleet: int = 122_880, payload: int | None = None, first: bool = False) -> int:
    """The chunk size of an offer."""
    return pace.chunk_bytes(fleet, payload, is_first_offer=first)


def test_chunk_size_is_the_fleets_unless_something_is_smaller() -> None:
    """The device may choose less: for the broker's limit, for what it has learned."""
    assert chosen(LinkPace(60)) == 122_880
    assert chosen(LinkPace(60), payload=100_000) == 100_000
    assert chosen(LinkPace(60, 20_000)) == 20_000
    assert chosen(LinkPace(60), payload=10) == LEAST_CHUNK_BYTES


def test_chunk_fits_into_half_a_keepalive_and_stays_so() -> None:
    """2 kB/s for 30 s: 60 kB at most, so 120 KiB are halved twice; a better moment does not change an upload."""
    pace = LinkPace(60)
    pace.acknowledged(2_000, 1.0)
    assert chosen(pace) == 30_720
    for _ in range(20):
        pace.acknowledged(10**6, 1.0)
    assert chosen(pace) == 30_720
    assert pace.connection_ended(30_720)
    assert not pace.connection_ended(30_720)


def test_two_fruitless_connections_halve_the_chunks() -> None:
    """A link that never stays up long enough for one chunk gets smaller ones, down to 4 KiB."""
    pace, sizes = LinkPace(60), [122_880]
    for _ in range(20):
        pace.tried()
        if pace.connection_ended(sizes[-1]):
            sizes.append(chosen(pace))
    assert sizes == [122_880, 61_440, 30_720, 15_360, 7_680, 4_096]


def test_chunks_grow_again_with_the_next_update_after_a_good_one() -> None:
    """Never within one update, which would have to begin anew; and not after another bad connection."""
    pace = LinkPace(60, 30_720)
    assert chosen(pace, first=True) == 30_720
    upload = an_upload(2, pace)
    upload.grant([(0, 1)])
    for index in (0, 1):
        assert sent(upload) == [index]
        upload.acknowledged(index, 0.01)
    pace.connection_ended(4096)
    assert chosen(pace) == 30_720
    assert chosen(pace, first=True) == 61_440
    assert chosen(pace, first=True) == 61_440
    pace.went_through()
    pace.tried()
    pace.connection_ended(61_440)
    assert chosen(pace, first=True) == 61_440
    pace.went_through()
    assert chosen(pace, first=True) == 122_880
    assert pace.chunk_limit is None


def test_connection_without_a_try_says_nothing_about_chunks() -> None:
    """A link that broke while nothing was granted is not too slow for chunks."""
    pace = LinkPace(60)
    for _ in range(10):
        assert not pace.connection_ended(122_880)
    pace.tried()
    pace.acknowledged(122_880, 1.0)
    assert not pace.connection_ended(122_880)
    pace.tried()
    assert not pace.connection_ended(122_880)
    assert pace.chunk_limit is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20))
def test_every_granted_chunk_goes_exactly_once_a_grant(grants: list[tuple[int, int]]) -> None:
    """Whatever is granted in whatever order, each chunk goes at least once and never twice at a time."""
    upload, out, went = an_upload(20), list[int](), Counter[int]()
    for first, last in [*grants, *[(21, 21)] * 40]:  # the last ones grant nothing, and only let time pass
        upload.grant([(first, last)])
        new = sent(upload)
        assert not set(new) & set(out)
        went.update(new)
        out += new
        if out:
            upload.acknowledged(out.pop(), 0.1)
    while out:
        upload.acknowledged(out.pop(), 0.1)
        out += sent(upload, 0.1)
    assert upload.is_drained
    assert set(went) == {i for first, last in grants for i in range(first, min(last, 19) + 1)}


def test_chunks_are_taken_together_once_half_a_window_is_free() -> None:
    """Reading them costs a way to the disk each time, however many they are."""
    upload = Upload(ChunkLayout(100 * 4096, 4096), LinkPace(60))
    upload.grant([(0, 99)])
    assert upload.take(0.0) == [0]
    assert upload.take(0.0) == []
    upload.acknowledged(0, 0.1)
    assert upload.take(0.1) == [1, 2]
    upload.acknowledged(1, 0.2)
    assert upload.take(0.2) == [3, 4, 5]
    upload.acknowledged(2, 0.3)
    assert upload.take(0.3) == [6, 7, 8, 9, 10]
    upload.acknowledged(3, 0.4)
    assert upload.take(0.4) == [11, 12, 13, 14, 15, 16, 17, 18, 19]
    upload.acknowledged(4, 0.5)
    assert upload.take(0.5) == []
