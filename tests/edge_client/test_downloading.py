import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import structlog

from broker.simulated import SimulatedBroker
from edge_client.downloading import Download
from edge_client.files import OnDisk
from edge_client.model_cache import CachedModel, ModelCache
from shared.errors import TransportError
from shared.topics import IndexTopic, ModelTopic, Topics
from simulator.inline_blocking import InlineBlocking
from tests.edge_client.builders import RUN
from tests.edge_client.scene import Watched
from tests.edge_client.test_model_cache import Published

pytestmark = pytest.mark.virtual_time
TOPICS = Topics("fleet")


class Fetching:
    """A model on a broker, and one who fetches it.

    Args:
        folder: of the cache.
        model: what was published.
    """

    def __init__(self, folder: Path, model: Published | None = None) -> None:
        self.model = model or Published()
        self.broker = SimulatedBroker()
        self.way = Watched(self.broker.transport("pi"))
        self.cache = ModelCache(OnDisk(folder), 10**9)
        self.cached: CachedModel = self.cache.open(self.model.ref)
        self.n_progress = self.n_missing = 0

    async def publish(self, *, without: int | None = None, chunks: list[bytes] | None = None) -> None:
        """Publish index and chunks, retained."""
        async with self.broker.transport("aggregator").connect() as connection:
            for j, piece in enumerate(self.model.pieces):
                topic = IndexTopic(RUN, self.model.ref.digest, j)
                await connection.publish(TOPICS.build(topic), piece, retained=True)
            for i, chunk in enumerate(chunks or self.model.chunks):
                if i != without:
                    topic_of_chunk = ModelTopic(RUN, self.model.ref.digest, i)
                    await connection.publish(TOPICS.build(topic_of_chunk), chunk, retained=True)

    @asynccontextmanager
    async def download(self) -> AsyncIterator[Download]:
        """Connect and listen."""
        async with self.way.connect() as connection:

            def count_progress() -> None:
                self.n_progress += 1

            def count_missing() -> None:
                self.n_missing += 1

            download = Download(
                RUN,
                self.cached,
                cache=self.cache,
                topics=TOPICS,
                connection=connection,
                run_blocking=InlineBlocking(Random(1)),
                patience_s=120.0,
                on_progress=count_progress,
                on_missing=count_missing,
            )

            async def listen() -> None:
                async for message in connection.messages():
                    topic = TOPICS.parse(message.topic)
                    assert isinstance(topic, IndexTopic | ModelTopic)
                    download.arrived(topic, message.payload)

            listening = asyncio.create_task(listen())
            yield download
            listening.cancel()


async def test_whole_model_comes_and_nothing_stays_subscribed(tmp_path: Path) -> None:
    """Index first, then chunks; what arrives counts as progress of the link."""
    fetching = Fetching(tmp_path)
    await fetching.publish()
    async with fetching.download() as download:
        await download.fetch()
        assert fetching.cached.read().tolist() == [1.0] * 5000
        assert 2 <= fetching.n_progress <= len(fetching.model.pieces) + len(fetching.model.chunks)
        assert download.asked == []
    assert sorted(fetching.way.unsubscribed) == sorted(name for names in fetching.way.subscribed for name in names)


async def test_index_alone_fetches_no_chunk(tmp_path: Path) -> None:
    """A device that was refused for its spec wants to know why, not the model."""
    fetching = Fetching(tmp_path)
    await fetching.publish()
    async with fetching.download() as download:
        index = await download.fetch_index()
    assert index.spec == fetching.model.spec
    assert not any("/model/" in topic for topic in fetching.way.received)


async def test_missing_chunk_is_said_at_the_third_ask_and_again(tmp_path: Path) -> None:
    """120 s, 240 s, 480 s …; meanwhile it may come."""
    fetching = Fetching(tmp_path)
    await fetching.publish(without=2)
    async with fetching.download() as download:
        task = asyncio.create_task(download.fetch())
        await asyncio.sleep(350)
        assert fetching.n_missing == 0
        await asyncio.sleep(50)
        assert fetching.n_missing == 1
        await asyncio.sleep(500)
        assert fetching.n_missing == 2
        await fetching.publish()
        await asyncio.wait_for(task, 1)
        assert fetching.cached.is_whole


async def test_wrong_chunk_counts_as_missing(tmp_path: Path) -> None:
    """A chunk of another digest is refused, said, and asked for again only after a while."""
    fetching = Fetching(tmp_path)
    wrong = [*fetching.model.chunks[:2], bytes(4096), *fetching.model.chunks[3:]]
    await fetching.publish(chunks=wrong)
    async with fetching.download() as download:
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(download.fetch())
            await asyncio.sleep(400)
        assert [line["chunk"] for line in logs if line["event"] == "chunk_refused"] == [2, 2, 2]
        assert fetching.n_missing == 1
        await fetching.publish()
        await asyncio.wait_for(task, 1)


async def test_wrong_index_is_fetched_anew(tmp_path: Path) -> None:
    """Its digest is its name: what does not match is never decoded."""
    fetching = Fetching(tmp_path)
    good, fetching.model.pieces = fetching.model.pieces, [bytes(len(piece)) for piece in fetching.model.pieces]
    await fetching.publish()
    async with fetching.download() as download:
        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(download.fetch())
            await asyncio.sleep(60)
        assert [line["event"] for line in logs] == ["index_refused"]
        assert fetching.n_missing == 1
        fetching.model.pieces = good
        await fetching.publish()
        await asyncio.wait_for(task, 130)


async def test_lost_link_ends_it(tmp_path: Path) -> None:
    """The next connection goes on with another object."""
    fetching = Fetching(tmp_path)
    await fetching.publish(without=2)
    async with fetching.download() as download:
        task = asyncio.create_task(download.fetch())
        await asyncio.sleep(10)
        assert len(download.asked) == 1
        fetching.broker.cut("pi")
        with pytest.raises(TransportError):
            await task
    await fetching.publish()
    async with fetching.download() as download:
        fetching.way.received.clear()
        await download.fetch()
    assert len(fetching.way.received) == 1


async def test_chunk_of_another_model_is_ignored(tmp_path: Path) -> None:
    """Two downloads share a connection; each takes its own."""
    fetching = Fetching(tmp_path)
    await fetching.publish()
    async with fetching.download() as download:
        download.arrived(ModelTopic(RUN, "0" * 64, 0), b"")
        download.arrived(ModelTopic("run-2", fetching.model.ref.digest, 0), b"")
        await download.fetch()
    assert fetching.cached.is_whole
