"""Fetching one model from the broker's retained chunks, over as many connections as it takes.

Explicit topics in a growing window, each unsubscribed as soon as it has come; what does not come is asked for again.

Not here: what is kept (`model_cache.py`), how many at once (`fetch_window.py`).
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import structlog

from broker.transport import Connection
from edge_client.fetch_window import MAX_WINDOW, FetchWindow
from edge_client.model_cache import CachedModel, ModelCache
from shared.blocking import Lane, RunBlocking
from shared.errors import PeerError
from shared.messages import ModelRef
from shared.task_groups import rethrow
from shared.topics import IndexTopic, ModelTopic, Topics
from shared.wire import ModelIndex

__all__ = ["Download"]

Piece: TypeAlias = IndexTopic | ModelTopic
Kind: TypeAlias = type[IndexTopic] | type[ModelTopic]
Keep: TypeAlias = Callable[[Iterable[tuple[int, bytes]]], list[int]]
"""Keeps numbered pieces, and returns the numbers of those that are right."""


class Download:
    """One model of one run, on one connection.

    Args:
        run: whose model it is.
        cached: what is there already, and takes the rest.
        cache: makes room for it.
        topics: of the fleet.
        connection: where to ask.
        run_blocking: for digests and the disk.
        patience_s: seconds without any chunk after which they are asked for again.
        on_progress: called whenever pieces have come that are new and right.
        on_missing: called when pieces were asked for often enough and do not come, again and again.
    """

    def __init__(
        self,
        run: str,
        cached: CachedModel,
        *,
        cache: ModelCache,
        topics: Topics,
        connection: Connection,
        run_blocking: RunBlocking,
        patience_s: float,
        on_progress: Callable[[], None],
        on_missing: Callable[[], None],
    ) -> None:
        self._run, self._cached, self._cache, self._topics = run, cached, cache, topics
        self._connection, self._run_blocking, self._patience_s = connection, run_blocking, patience_s
        self._on_progress, self._on_missing = on_progress, on_missing
        # a broker sends only what was asked for: when this is full it does not, and what is dropped is asked for again
        self._arrived: asyncio.Queue[tuple[Piece, bytes]] = asyncio.Queue(4 * MAX_WINDOW)
        self._asked: Callable[[], list[str]] = list
        self._log = structlog.get_logger()

    @property
    def asked(self) -> list[str]:
        """Topics that are subscribed; to be unsubscribed when `fetch` is cancelled."""
        return self._asked()

    @property
    def fraction(self) -> float:
        """How much of the model is there, in [0, 1]."""
        return self._cached.fraction

    @property
    def model(self) -> ModelRef:
        """Which model it is."""
        return self._cached.model

    def arrived(self, topic: Piece, payload: bytes) -> None:
        """Take a piece of a model; another model's is ignored."""
        if topic.digest == self.model.digest and topic.run == self._run:
            with suppress(asyncio.QueueFull):
                self._arrived.put_nowait((topic, payload))

    async def fetch_index(self) -> ModelIndex:
        """Return the index, once it is there.

        Raises:
            TransportError: the link is gone; go on with another object on the next connection.
        """
        while self._cached.index is None:
            await self._fetch(IndexTopic, self._cached.missing_pieces(), self._cached.add_pieces)
            try:
                await self._run_blocking(Lane.DISK, self._cached.complete_index)
            except (PeerError, OSError) as error:
                self._log.warning("index_refused", digest=self.model.digest, cause=str(error))
                self._on_missing()
                await asyncio.sleep(self._patience_s)
        return self._cached.index

    async def fetch(self) -> None:
        """Return once the whole model is there.

        Raises:
            TransportError: as for `fetch_index`.
        """
        await self.fetch_index()
        await self._run_blocking(Lane.DISK, partial(self._cache.make_room, self._cached))
        await self._fetch(ModelTopic, self._cached.missing_chunks(), self._cached.add_chunks)

    async def _fetch(self, kind: Kind, missing: list[int], keep: Keep) -> None:
        loop = asyncio.get_running_loop()
        window = FetchWindow(missing, self._patience_s)
        self._asked = lambda: self._names(kind, window.asked)
        try:
            async with asyncio.TaskGroup() as group:
                while not window.is_complete:
                    if pieces := window.ask(loop.time()):
                        # not waited for: on a thin link its answer comes behind chunks, which are to be kept at once
                        group.create_task(self._connection.subscribe(self._names(kind, pieces)), name="subscribe")
                    try:
                        async with asyncio.timeout_at(window.deadline):
                            came = [await self._arrived.get()]
                    except TimeoutError:
                        await self._ask_again(kind, window)
                        continue
                    while not self._arrived.empty():
                        came.append(self._arrived.get_nowait())
                    right = await self._keep(kind, keep, came)
                    if new := [number for number in right if window.arrived(number, loop.time())]:
                        self._on_progress()
                        leave = self._connection.unsubscribe(self._names(kind, new))
                        group.create_task(leave, name=f"unsubscribe {new}")
        except BaseExceptionGroup as errors:
            rethrow(errors)

    async def _keep(self, kind: Kind, keep: Keep, came: list[tuple[Piece, bytes]]) -> list[int]:
        numbered = [(_number(topic), payload) for topic, payload in came if isinstance(topic, kind)]
        try:
            right = await self._run_blocking(Lane.DISK, partial(keep, numbered))
        except OSError as error:
            self._log.error("cache_failed", digest=self.model.digest, cause=str(error))
            return []
        for number, payload in numbered:
            if number not in right:
                self._log.warning("chunk_refused", digest=self.model.digest, chunk=number, n_bytes=len(payload))
        return right

    async def _ask_again(self, kind: Kind, window: FetchWindow) -> None:
        names = self._names(kind, window.ask_again(asyncio.get_running_loop().time()))
        self._log.info("chunks_asked_again", digest=self.model.digest, n_chunks=len(names))
        if window.is_missing:
            self._on_missing()
        await self._connection.unsubscribe(names)
        await self._connection.subscribe(names)

    def _names(self, kind: Kind, numbers: list[int]) -> list[str]:
        return [self._topics.build(kind(self._run, self.model.digest, number)) for number in numbers]


def _number(topic: Piece) -> int:
    return topic.piece if isinstance(topic, IndexTopic) else topic.chunk
