import asyncio

import pytest

from broker.simulated import SimulatedBroker
from shared.messages import Report, Reported
from shared.topics import ChunkTopic, ReportTopic, Topics
from shared.wire import encode
from simulator.mid_upload import MidUpload, until_mid_upload

TOPICS = Topics("demo")
LEASE, OTHER = "a" * 32, "b" * 32


def _an_offer(lease: str = LEASE, *, size: int = 10_000, chunk_bytes: int = 4096) -> tuple[str, bytes]:
    report = Report(
        lease=lease,
        run="r",
        outcome=Reported.TRAINED,
        codec="float32",
        num_examples=3,
        size=size,
        sha256="0" * 64,
        chunk_bytes=chunk_bytes,
    )
    return TOPICS.build(ReportTopic("d1", lease)), encode(report)


def _a_chunk(index: int, lease: str = LEASE) -> tuple[str, bytes]:
    return TOPICS.build(ChunkTopic("d1", lease, index)), b"bytes"


def test_first_of_three_chunks_is_the_middle() -> None:
    """One has come, two are to come."""
    watched = MidUpload(TOPICS, "d1")
    assert watched.saw(*_an_offer()) is None
    assert watched.saw(*_a_chunk(0)) == (1, 3)


def test_repeated_chunk_counts_once_and_the_last_is_no_middle() -> None:
    """An upload that is whole has no middle any more."""
    watched = MidUpload(TOPICS, "d1")
    watched.saw(*_an_offer())
    assert [watched.saw(*_a_chunk(index)) for index in (2, 2, 0, 1)] == [(1, 3), (1, 3), (2, 3), None]


def test_upload_of_one_chunk_has_no_middle() -> None:
    """What comes in one piece is never half there."""
    watched = MidUpload(TOPICS, "d1")
    watched.saw(*_an_offer(size=100))
    assert watched.saw(*_a_chunk(0)) is None


def test_chunk_without_its_offer_says_nothing() -> None:
    """Without the offer nobody knows how many are to come."""
    watched = MidUpload(TOPICS, "d1")
    watched.saw(*_an_offer())
    assert watched.saw(*_a_chunk(0, OTHER)) is None


@pytest.mark.parametrize("payload", [b"", b"garbage", b"\x81"])
def test_garbage_is_passed_over(payload: bytes) -> None:
    """A report that cannot be read is the aggregator's affair."""
    assert MidUpload(TOPICS, "d1").saw(_an_offer()[0], payload) is None


@pytest.mark.virtual_time
async def test_watch_returns_in_mid_upload() -> None:
    """A plain subscriber on the broker finds the instant."""
    broker = SimulatedBroker()
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(until_mid_upload(broker.transport("watch"), TOPICS, "d1"))
        async with broker.transport("d1").connect() as connection:
            await asyncio.sleep(1.0)
            for message in (_an_offer(), _a_chunk(1), _a_chunk(0)):
                await connection.publish(*message)
    assert watch.result() == (1, 3)
