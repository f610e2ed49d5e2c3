"""An update on its way in, with real part files: whole and sound, or refused, and never an exception."""

import asyncio
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from structlog.testing import capture_logs

from aggregator import events as ev
from aggregator.folding import verify
from aggregator.part_files import SYNC_CHUNKS, PartFiles
from shared.chunking import ChunkLayout
from shared.codecs import CODECS
from shared.errors import PeerError, Reason
from tests.aggregator.builders import CHUNK_BYTES, a_report, an_offer, lease_name
from tests.aggregator.intake_desk import LEASE, Desk, an_update, working

pytestmark = pytest.mark.virtual_time


async def test_chunks_become_a_verified_update(tmp_path: Path) -> None:
    """Offered, granted, whole: the machine hears of an update in a file, with the report's own numbers."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        report = an_offer(update)
        desk.offer(report)
        await desk.send(update)
    digest, norm = str(report.sha256), verify(CODECS["float32"], update, len(update) // 4)
    assert desk.told == [
        ev.Verified(
            lease=LEASE, num_examples=10, n_steps=3, codec="float32", size=len(update), sha256=digest, norm=norm
        )
    ]
    assert bytes(desk.files.open(LEASE).data) == update
    assert desk.uploads.get(LEASE) is None


async def test_inline_update_is_verified_with_its_bytes(tmp_path: Path) -> None:
    """No file is written: it will live in the journal's row."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        desk.offer(a_report(update))
        await asyncio.sleep(1.0)
    (verdict,) = desk.told
    assert isinstance(verdict, ev.Verified)
    assert verdict.data == update
    assert desk.files_there == []


def spoilt(value: float) -> bytes:
    """Return an update with one value that is no number of ours."""
    vector = np.frombuffer(an_update(), "<f4").copy()
    vector[4321] = value
    return vector.tobytes()


@pytest.mark.parametrize("is_inline", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_update_with_nan_or_inf_is_refused(tmp_path: Path, value: float, is_inline: bool) -> None:
    """One value in five thousand is enough."""
    update = spoilt(value)
    async with working(Desk(tmp_path)) as desk:
        desk.offer(a_report(update) if is_inline else an_offer(update))
        await desk.send(update)
    (verdict,) = desk.told
    assert isinstance(verdict, ev.Refused)
    assert (verdict.lease, verdict.reason) == (LEASE, Reason.NOT_FINITE)


async def test_update_over_the_norm_is_refused(tmp_path: Path) -> None:
    """The bound is the run's own."""
    async with working(Desk(tmp_path, max_norm=1.0)) as desk:
        desk.offer(a_report(an_update()))
        await asyncio.sleep(1.0)
    (verdict,) = desk.told
    assert isinstance(verdict, ev.Refused)
    assert verdict.reason is Reason.NORM


async def test_inline_update_that_does_not_match_its_digest_is_refused(tmp_path: Path) -> None:
    """There is nothing to ask for again: the report was one message."""
    async with working(Desk(tmp_path)) as desk:
        desk.offer(a_report(an_update(), sha256="0" * 64))
        await asyncio.sleep(1.0)
    (verdict,) = desk.told
    assert isinstance(verdict, ev.Refused)
    assert verdict.reason is Reason.DIGEST


async def test_whole_that_does_not_match_is_asked_for_once_more(tmp_path: Path) -> None:
    """A chunk was damaged on its way: all is granted again, and the second time it is right."""
    update, damaged = an_update(), spoilt(0.0)
    async with working(Desk(tmp_path)) as desk:
        desk.offer(an_offer(update))
        for _ in range(2):  # four chunks, then the fifth
            await asyncio.sleep(0.1)
            for grant in desk.uploads.grants(desk.now):
                for first, last in grant.ranges:
                    for index in range(first, last + 1):
                        desk.chunk(damaged, index)
        await asyncio.sleep(0.5)
        assert desk.told == []
        sent = await desk.send(update)
    assert sent == list(range(5))
    assert [type(each) for each in desk.told] == [ev.Verified]


async def test_second_mismatch_is_refused(tmp_path: Path) -> None:
    """The device sends what it did not offer: it is asked twice, no more."""
    async with working(Desk(tmp_path)) as desk:
        desk.offer(an_offer(an_update()))
        sent = await desk.send(spoilt(0.0))
    assert sent == 2 * list(range(5))
    (verdict,) = desk.told
    assert isinstance(verdict, ev.Refused)
    assert verdict.reason is Reason.DIGEST


async def test_offer_again_goes_on_where_it_stood(tmp_path: Path) -> None:
    """The device reconnected after two chunks: the other three are asked for."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        desk.offer(an_offer(update))
        await asyncio.sleep(0.1)
        desk.uploads.grants(desk.now)
        desk.chunk(update, 0)
        desk.chunk(update, 3)
        desk.offer(an_offer(update))
        sent = await desk.send(update)
    assert sent == [1, 2, 4]
    assert [type(each) for each in desk.told] == [ev.Verified]


async def test_offer_of_other_content_begins_anew(tmp_path: Path) -> None:
    """The device trained again under its lease: nothing of the first is kept."""
    first, second = an_update(1), an_update(2)
    async with working(Desk(tmp_path)) as desk:
        desk.offer(an_offer(first))
        await asyncio.sleep(0.1)
        desk.uploads.grants(desk.now)
        desk.chunk(first, 0)
        await asyncio.sleep(0.1)
        desk.offer(an_offer(second))
        sent = await desk.send(second)
    assert sent == list(range(5))
    assert bytes(desk.files.open(LEASE).data) == second


async def test_ninth_content_is_refused(tmp_path: Path) -> None:
    """Whoever offers something else again and again is told so."""
    async with working(Desk(tmp_path)) as desk:
        for seed in range(9):
            desk.offer(an_offer(an_update(seed)))
            await asyncio.sleep(0.5)
    (verdict,) = desk.told
    assert isinstance(verdict, ev.Refused)
    assert verdict.reason is Reason.OFFERS


async def test_offers_faster_than_the_disk_are_taken_once(tmp_path: Path) -> None:
    """Ten repeats before the first was taken up: one upload, one verdict."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        for _ in range(10):
            desk.offer(an_offer(update))
        await desk.send(update)
        for _ in range(3):
            desk.offer(an_offer(update))  # it is whole already, and not yet decided
        await asyncio.sleep(1.0)
    assert [type(each) for each in desk.told] == [ev.Verified]


async def test_chunk_that_was_never_asked_for_is_refused(tmp_path: Path) -> None:
    """At once, to whoever handed it in."""
    async with working(Desk(tmp_path)) as desk:
        with pytest.raises(PeerError) as caught:
            desk.chunk(an_update(), 0)
    assert caught.value.reason is Reason.CHUNK


async def test_dropped_upload_leaves_nothing(tmp_path: Path) -> None:
    """Grants, report and part file go; chunks that were under way write nothing more."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        desk.offer(an_offer(update))
        await desk.send(update, n_chunks=3)
        desk.intake.drop(LEASE)
        await asyncio.sleep(1.0)
        desk.intake.take(LEASE)  # what was offered is forgotten
        await asyncio.sleep(1.0)
    assert (desk.uploads.get(LEASE), desk.uploads.granted_chunks, desk.files_there) == (None, 0, [])
    assert not desk.intake._reports
    assert desk.told == []


@pytest.mark.parametrize("seed", range(8))
async def test_drop_wins_whenever_it_comes(tmp_path: Path, seed: int) -> None:
    """While chunks are written, while the whole is hashed, while it is checked: nothing of it stays."""
    update = an_update()
    async with working(Desk(tmp_path, seed=seed)) as desk:
        desk.offer(an_offer(update))
        await asyncio.sleep(0.1)
        for _ in range(2):
            desk.uploads.grants(desk.now)
            for index in range(5):
                desk.chunk(update, index)
        await asyncio.sleep(0.004 * seed)
        desk.intake.drop(LEASE)
        await asyncio.sleep(1.0)
    assert set(desk.files_there) <= {".spare"}  # to be written over
    assert not desk.intake._reports
    assert not desk.intake._under_check


async def test_decided_update_stays_on_disk_and_is_forgotten_in_memory(tmp_path: Path) -> None:
    """Its file is needed until it is in a version; a run of a million updates keeps no memory of them."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        desk.offer(an_offer(update))
        await desk.send(update)
        desk.intake.decided(LEASE)
        await asyncio.sleep(1.0)
    assert desk.files_there == [".update"]
    for memory in (desk.intake._reports, desk.intake._under_check, desk.intake._mismatches):
        assert not memory


async def test_finished_file_is_checked_again_after_a_restart(tmp_path: Path) -> None:
    """Killed after the rename, before the decision: the same verdict, no upload; an offer waits for it."""
    update = an_update()
    async with working(Desk(tmp_path)) as before:
        before.offer(an_offer(update))
        await before.send(update)
    async with working(Desk(tmp_path)) as after:
        assert after.files.finished() == [LEASE]
        after.intake.take_finished(LEASE)
        after.offer(an_offer(update))
        sent = await after.send(update)
    assert sent == []
    assert after.told == before.told


async def test_part_file_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Killed with 18 of 20 chunks written: the sixteen that were synchronised are not asked for again."""
    n_params = 20 * CHUNK_BYTES // 4
    update = an_update(n_params=n_params)
    files, layout = PartFiles(tmp_path), ChunkLayout(len(update), CHUNK_BYTES)
    files.begin(an_offer(update))
    for index in range(SYNC_CHUNKS + 2):
        files.write(LEASE, [(index, bytes(layout.cut(update, index)))])
    async with working(Desk(tmp_path, n_params=n_params)) as desk:
        desk.offer(an_offer(update))
        sent = await desk.send(update)
    assert sent == [16, 17, 18, 19]
    assert [type(each) for each in desk.told] == [ev.Verified]


async def test_file_that_is_none_of_ours_stops_nothing(tmp_path: Path) -> None:
    """Damaged on disk while the aggregator was down: the device sends it again."""
    update = an_update()
    (tmp_path / f"{LEASE}.update").write_bytes(b"garbage")
    async with working(Desk(tmp_path)) as desk:
        desk.intake.take_finished(LEASE)
        await asyncio.sleep(1.0)
        assert desk.told == []
        desk.offer(an_offer(update))
        await desk.send(update)
    assert [type(each) for each in desk.told] == [ev.Verified]


@pytest.mark.parametrize("at_chunk", [0, 2])
async def test_full_disk_is_told_and_the_offer_begins_again(tmp_path: Path, at_chunk: int) -> None:
    """Not the device's fault: nothing is refused; when there is room its next offer is taken up."""
    update = an_update()
    async with working(Desk(tmp_path)) as desk:
        desk.files.is_full = at_chunk == 0
        desk.offer(an_offer(update))
        await asyncio.sleep(0.1)
        desk.uploads.grants(desk.now)
        for index in range(at_chunk):
            desk.chunk(update, index)
        await asyncio.sleep(0.1)
        desk.files.is_full = True
        if at_chunk:
            desk.chunk(update, at_chunk)
        await asyncio.sleep(1.0)
        assert desk.told == [ev.DiskLow()]
        assert desk.uploads.granted_chunks == 0
        desk.files.is_full = False
        desk.offer(an_offer(update))
        await desk.send(update)
    assert [type(each) for each in desk.told] == [ev.DiskLow, ev.Verified]


async def test_many_uploads_at_once_are_kept_apart(tmp_path: Path) -> None:
    """Ten devices, chunks interleaved at random: each update is its own."""
    updates = {lease_name(i): an_update(i) for i in range(10)}
    rng = Random(3)
    async with working(Desk(tmp_path)) as desk:
        for lease, update in updates.items():
            desk.offer(an_offer(update, lease))
        waiting: list[partial[None]] = []
        for _ in range(60):
            await asyncio.sleep(0.1)
            for grant in desk.uploads.grants(desk.now):
                for first, last in grant.ranges:
                    update = updates[grant.lease]
                    waiting += [partial(desk.chunk, update, i, grant.lease) for i in range(first, last + 1)]
            rng.shuffle(waiting)
            while waiting and rng.random() < 0.95:
                waiting.pop()()
    assert len(desk.told) == 10
    for lease, update in updates.items():
        assert bytes(desk.files.open(lease).data) == update


async def test_chunks_that_nobody_asked_for_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A device sends all of its update at once, faster than the disk: what is over the budget is asked for later."""
    n_params = 100 * CHUNK_BYTES // 4
    update = an_update(n_params=n_params)
    async with working(Desk(tmp_path, n_params=n_params, max_bytes=10 * CHUNK_BYTES)) as desk:
        desk.offer(an_offer(update))
        await asyncio.sleep(0.1)
        for index in range(10):
            desk.chunk(update, index)
        for index in range(10, 100):
            with pytest.raises(PeerError, match="nobody asked for it"):
                desk.chunk(update, index)
        assert desk.intake.unwritten_bytes == 10 * CHUNK_BYTES
        await asyncio.sleep(1.0)
        assert desk.intake.unwritten_bytes == 0
        sent = await desk.send(update)
    assert sent == list(range(10, 100))
    assert [type(each) for each in desk.told] == [ev.Verified]


async def test_chunk_that_nobody_asked_for_leaves_room_for_those_that_were(tmp_path: Path) -> None:
    """What is granted and what waits for the disk stay within the budget together, whatever else arrives."""
    n_params = 100 * CHUNK_BYTES // 4
    update = an_update(n_params=n_params)
    async with working(Desk(tmp_path, n_params=n_params, max_bytes=5 * CHUNK_BYTES)) as desk:
        desk.offer(an_offer(update))
        await asyncio.sleep(0.1)
        (grant,) = desk.uploads.grants(desk.now)
        assert grant.ranges == [(0, 3)]
        desk.chunk(update, 50)
        with pytest.raises(PeerError):
            desk.chunk(update, 51)
        for index in range(4):
            desk.chunk(update, index)
        assert desk.uploads.granted_bytes + desk.intake.unwritten_bytes == 5 * CHUNK_BYTES


async def test_offers_of_one_lease_wait_once_however_often_they_come(tmp_path: Path) -> None:
    """What waits for the disk is bounded by leases, not by messages; the last offer is the one that counts."""
    updates = [an_update(seed) for seed in range(50)]
    async with working(Desk(tmp_path)) as desk:
        for update in updates:
            desk.offer(an_offer(update))
        assert desk.intake.n_waiting == 1
        assert desk.intake.n_reports == 1
        await desk.send(updates[-1])
    (verified,) = desk.told
    assert isinstance(verified, ev.Verified)
    assert bytes(desk.files.open(LEASE).data) == updates[-1]


async def test_update_that_is_dropped_under_check_is_no_error(tmp_path: Path) -> None:
    """A lease may end while its update waits for its check: then its file is gone, and nobody has to hear of it."""
    update = an_update()
    desk = Desk(tmp_path)
    with capture_logs() as logs:
        async with working(desk):
            desk.offer(an_offer(update))
            await desk.send(update)
            desk.intake.take_finished(LEASE)
            desk.intake.drop(LEASE)
            desk.files.delete(LEASE)
            await asyncio.sleep(1.0)
    assert logs == []


async def test_update_whose_file_is_lost_under_check_is_named(tmp_path: Path) -> None:
    """A lease that is still open must not lose its file in silence."""
    update = an_update()
    desk = Desk(tmp_path)
    with capture_logs() as logs:
        async with working(desk):
            desk.offer(an_offer(update))
            await desk.send(update)
            desk.files.delete(LEASE)
            desk.intake.take_finished(LEASE)
            await asyncio.sleep(1.0)
    assert [(each["event"], each["lease"]) for each in logs] == [("upload_lost", LEASE)]
