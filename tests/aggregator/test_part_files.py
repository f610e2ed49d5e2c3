"""Chunks at their offset, and after whatever happens only what is really there counts as there."""

import hashlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.part_files import SYNC_CHUNKS, PartFiles
from shared.chunking import ChunkLayout
from shared.errors import InvalidState, PeerError, Reason
from shared.messages import Report, Reported

LEASE = "0123456789abcdef" * 2
CHUNK_BYTES = 4096


def an_update(n_bytes: int = 40 * CHUNK_BYTES + 100, seed: int = 1) -> bytes:
    """Return what a device would send."""
    return Random(seed).randbytes(n_bytes)


def an_offer(update: bytes, *, lease: str = LEASE, chunk_bytes: int = CHUNK_BYTES) -> Report:
    """Return the Report that offers it."""
    return Report(
        lease=lease,
        run="digits",
        outcome=Reported.TRAINED,
        codec="float32",
        num_examples=10,
        metrics={"loss": 0.5, "accuracy": (9.0, 10.0)},
        size=len(update),
        sha256=hashlib.sha256(update).hexdigest(),
        chunk_bytes=chunk_bytes,
    )


def send(files: PartFiles, update: bytes, indexes: "list[int] | range", *, chunk_bytes: int = CHUNK_BYTES) -> None:
    """Write chunks of an update under LEASE."""
    layout = ChunkLayout(len(update), chunk_bytes)
    for index in indexes:
        files.write(LEASE, [(index, bytes(layout.cut(update, index)))])


@given(n_bytes=st.integers(0, 9 * CHUNK_BYTES), rng=st.randoms(use_true_random=False))
def test_chunks_in_any_order_become_the_update(
    n_bytes: int, rng: Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Order and repeats do not matter; what is read back is what was sent, with its Report."""
    files = PartFiles(tmp_path_factory.mktemp("updates"))
    update = an_update(n_bytes)
    offer = an_offer(update)
    bitmap = files.begin(offer)
    order = [*bitmap.missing(), *bitmap.missing()]
    rng.shuffle(order)
    send(files, update, order)
    assert files.digest(LEASE) == offer.sha256
    files.finish(LEASE)
    stored = files.open(LEASE)
    assert bytes(stored.data) == update
    assert stored.report == offer
    assert (files.finished(), files.unfinished()) == ([LEASE], [])


def test_write_says_whether_a_chunk_was_missing_and_keeps_the_first(tmp_path: Path) -> None:
    """A chunk that comes twice is ignored the second time."""
    files, update = PartFiles(tmp_path), an_update(2 * CHUNK_BYTES)
    files.begin(an_offer(update))
    assert files.write(LEASE, [(0, update[:CHUNK_BYTES])])
    assert not files.write(LEASE, [(0, bytes(CHUNK_BYTES))])
    assert files.write(LEASE, [(1, update[CHUNK_BYTES:])])
    assert files.digest(LEASE) == hashlib.sha256(update).hexdigest()


@pytest.mark.parametrize(("index", "n_bytes"), [(0, 0), (0, CHUNK_BYTES - 1), (0, CHUNK_BYTES + 1), (2, 1), (10**6, 1)])
def test_chunk_of_a_wrong_index_or_length_is_refused(tmp_path: Path, index: int, n_bytes: int) -> None:
    """Nothing is written outside the upload or over its neighbour."""
    files = PartFiles(tmp_path)
    files.begin(an_offer(an_update(CHUNK_BYTES + 1)))
    with pytest.raises(PeerError) as refused:
        files.write(LEASE, [(index, bytes(n_bytes))])
    assert refused.value.reason is Reason.CHUNK


def test_chunk_that_was_never_offered_is_refused(tmp_path: Path) -> None:
    """A chunk without an offer has no place."""
    with pytest.raises(PeerError) as refused:
        PartFiles(tmp_path).write(LEASE, [(0, b"x")])
    assert refused.value.reason is Reason.CHUNK


def test_same_offer_again_goes_on_where_it_stood(tmp_path: Path) -> None:
    """A reconnect costs no chunk that has arrived."""
    files, update = PartFiles(tmp_path), an_update()
    files.begin(an_offer(update))
    send(files, update, range(5))
    assert list(files.begin(an_offer(update)).missing()) == list(range(5, 41))


def test_after_a_restart_only_synchronised_chunks_are_there(tmp_path: Path) -> None:
    """Of 20 chunks the first 16 were synchronised; the rest is asked for again, and the whole is right."""
    update = an_update()
    files = PartFiles(tmp_path)
    files.begin(an_offer(update))
    send(files, update, range(SYNC_CHUNKS + 4))
    files = PartFiles(tmp_path)
    assert files.unfinished() == [LEASE]
    missing = list(files.begin(an_offer(update)).missing())
    assert missing == list(range(SYNC_CHUNKS, 41))
    send(files, update, missing)
    assert files.digest(LEASE) == hashlib.sha256(update).hexdigest()


@pytest.mark.parametrize("restarts", [False, True])
def test_other_offer_begins_anew(tmp_path: Path, restarts: bool) -> None:
    """Bytes of one update never stand in another, whatever of the two was there first."""
    files = PartFiles(tmp_path)
    files.begin(an_offer(an_update()))
    send(files, an_update(), range(SYNC_CHUNKS))
    if restarts:
        files = PartFiles(tmp_path)
    other = an_update(5 * CHUNK_BYTES, seed=2)
    assert files.begin(an_offer(other)).n_set == 0
    send(files, other, range(5))
    files.finish(LEASE)
    assert bytes(files.open(LEASE).data) == other


def test_same_update_in_other_chunks_begins_anew(tmp_path: Path) -> None:
    """A device that halves its chunks offers anew, and old bits mean nothing."""
    files, update = PartFiles(tmp_path), an_update()
    files.begin(an_offer(update))
    send(files, update, range(SYNC_CHUNKS))
    assert files.begin(an_offer(update, chunk_bytes=8192)).n_set == 0


def test_clear_asks_for_everything_again_even_after_a_restart(tmp_path: Path) -> None:
    """A whole that did not match its digest leaves no chunk believed."""
    files, update = PartFiles(tmp_path), an_update()
    files.begin(an_offer(update))
    send(files, update, range(41))
    files.clear(LEASE)
    assert files.begin(an_offer(update)).n_set == 0
    assert PartFiles(tmp_path).begin(an_offer(update)).n_set == 0


def test_finish_of_an_incomplete_upload_is_refused(tmp_path: Path) -> None:
    """A file with its final name is whole."""
    files, update = PartFiles(tmp_path), an_update()
    files.begin(an_offer(update))
    send(files, update, range(40))
    with pytest.raises(InvalidState):
        files.finish(LEASE)
    assert files.finished() == []


def test_delete_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    """A lease that has its outcome takes no disk."""
    files, update = PartFiles(tmp_path), an_update(CHUNK_BYTES)
    files.begin(an_offer(update))
    files.delete(LEASE)
    files.begin(an_offer(update))
    send(files, update, range(1))
    files.finish(LEASE)
    files.delete(LEASE)
    files.delete(LEASE)
    assert (files.finished(), files.unfinished()) == ([], [])
    assert files.give_back() > CHUNK_BYTES
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_bytes", [3 * CHUNK_BYTES, 40 * CHUNK_BYTES + 100, 100 * CHUNK_BYTES])
def test_file_is_written_over_and_nothing_of_it_is_taken_for_new(tmp_path: Path, n_bytes: int) -> None:
    """Neither its bitmap nor its bytes, also when this life ends before the new update is there."""
    files, old, update = PartFiles(tmp_path), an_update(), an_update(n_bytes, seed=2)
    files.begin(an_offer(old))
    send(files, old, range(41))
    files.finish(LEASE)
    files.delete(LEASE)
    [spare] = tmp_path.iterdir()
    inode = spare.stat().st_ino
    assert files.begin(an_offer(update)).n_set == 0
    [part] = tmp_path.iterdir()
    assert part.stat().st_ino == inode
    later = PartFiles(tmp_path)
    assert later.begin(an_offer(update)).n_set == 0
    send(later, update, range(len(ChunkLayout(n_bytes, CHUNK_BYTES))))
    assert later.digest(LEASE) == an_offer(update).sha256
    later.finish(LEASE)
    assert bytes(later.open(LEASE).data) == update


@pytest.mark.parametrize("kept", [0, 5, 12, 100, 4095, 4096, 5000])
def test_part_file_cut_anywhere_begins_anew(tmp_path: Path, kept: int) -> None:
    """A torn part file is not an error and not believed."""
    files, update = PartFiles(tmp_path), an_update()
    files.begin(an_offer(update))
    send(files, update, range(SYNC_CHUNKS))
    path = tmp_path / f"{LEASE}.part"
    path.write_bytes(path.read_bytes()[:kept])
    assert PartFiles(tmp_path).begin(an_offer(update)).n_set == 0


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_open_of_a_file_that_is_not_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    """A finished file is believed only with the report of its lease in front."""
    (tmp_path / f"{LEASE}.update").write_bytes(content)
    with pytest.raises(InvalidState):
        PartFiles(tmp_path).open(LEASE)


def test_open_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """Folding a file that is gone is a mistake of ours."""
    with pytest.raises(InvalidState):
        PartFiles(tmp_path).open(LEASE)
