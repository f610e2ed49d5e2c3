"""The model goes down: retained chunks and index by digest, read back, and deleted when nobody needs them.

What the broker acknowledged it may still have dropped or denied, so its first and last chunk and the last piece of its
index are read back before the manifest names it. After a restart or a reconnect only what reading back shows to be
missing is published again.

Not here: the manifest (its publisher is the caller), and when a version is published (`round_machine.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from broker.transport import Connection, Message
from shared.chunking import ChunkLayout, sha256_hex
from shared.errors import ConfigError
from shared.messages import ModelRef
from shared.parameters import ParameterSpec, Vector
from shared.topics import IndexTopic, ModelTopic, Topics
from shared.wire import ModelIndex, encode_index

__all__ = ["ModelBlob", "Publisher", "model_blob", "which_to_delete"]

WINDOW = 16
"""Publishes, or topics read back, at a time: brokers truncate what they owe one client beyond some dozens."""
READ_BACK_S = 10.0
"""Seconds without any piece arriving after which what is outstanding counts as missing."""
HURRIED_LEAST_S = 1.0
HURRIED_ROUND_TRIPS = 10.0
"""A broker that has a piece sends it with its SUBACK: who answers quickly and sends nothing has most likely nothing.
Good enough for a first look, after which it is published once too often at worst; not to call a broker unfit."""
ATTEMPTS = 3
"""Times that what is missing is published in vain before the broker is said not to keep it."""
KEPT_VERSIONS = 3
MAX_BLOBS = 8


class _Piece(NamedTuple):
    topic: str
    payload: bytes | memoryview
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBlob:
    """A model cut for the wire.

    Args:
        ref: its name, as manifest and assignments carry it.
        index: what it consists of.
        index_bytes: the index as it travels; its sha-256 is `ref.digest`.
        data: the flat vector as little-endian float32, a view of the vector itself.
    """

    ref: ModelRef
    index: ModelIndex
    index_bytes: bytes
    data: memoryview


def model_blob(vector: Vector, spec: ParameterSpec, version: int, chunk_bytes: int) -> ModelBlob:
    """Cut a model for the wire; hashes it twice, so run it off the event loop.

    Args:
        vector: (n_params,) float32; not to be changed while the blob is in use.
        spec: of the vector.
        version: which it is.
        chunk_bytes: bytes a chunk, 4 KiB to 256 KiB.
    """
    data = vector.astype("<f4", copy=False).data.cast("B")
    layout = ChunkLayout(len(data), chunk_bytes)
    index = ModelIndex(
        spec=spec,
        size=len(data),
        chunk_bytes=chunk_bytes,
        sha256=sha256_hex(data),
        chunks=tuple(bytes.fromhex(sha256_hex(layout.cut(data, i))) for i in range(len(layout))),
    )
    index_bytes = encode_index(index)
    ref = ModelRef(
        version=version, digest=sha256_hex(index_bytes), index_bytes=len(index_bytes), chunk_bytes=chunk_bytes
    )
    return ModelBlob(ref=ref, index=index, index_bytes=index_bytes, data=data)


def which_to_delete(published: Sequence[ModelRef], live: Set[int]) -> list[ModelRef]:
    """Choose the models that go from the broker.

    The last three versions stay, and those that an open lease names; past eight blobs the oldest
    goes whoever names it, and only leases that name it are to be cancelled. Two versions with one digest are one blob.

    Args:
        published: what is on the broker, in any order.
        live: versions that such leases name.

    Returns:
        The versions to forget, oldest first; a digest that a kept version shares is not to be deleted: see
        `Publisher.delete`.
    """
    newest_first = sorted(published, key=lambda ref: ref.version, reverse=True)
    kept: set[str] = set()
    gone: list[ModelRef] = []
    for rank, ref in enumerate(newest_first):
        is_wanted = rank < KEPT_VERSIONS or ref.version in live
        if is_wanted and (ref.digest in kept or len(kept) < MAX_BLOBS):
            kept.add(ref.digest)
        else:
            gone.append(ref)
    return gone[::-1]


class Publisher:
    """Publishes models over one connection and reads them back. Thrown away with the connection.

    Whoever consumes the connection's messages hands every one of them to `arrived` first.

    Args:
        connection: alive.
        topics: of the fleet.
        run: served.
    """

    def __init__(self, connection: Connection, topics: Topics, run: str) -> None:
        self._connection = connection
        self._topics = topics
        self._run = run
        self._reading = asyncio.Lock()
        self._expected: dict[str, str] = {}  # topic that is being read back -> sha-256 of what must lie there
        self._arrival = asyncio.Event()

    def arrived(self, message: Message) -> bool:
        """Take a message that is being read back; return whether it was one."""
        expected = self._expected.get(message.topic)
        if expected is None:
            return False
        if sha256_hex(message.payload) == expected:
            del self._expected[message.topic]
        self._arrival.set()
        return True

    async def publish(self, blob: ModelBlob) -> None:
        """Publish a model, and return once its first and last chunk and the last piece of its index were read back.

        Raises:
            TransportError: the link is gone; call `ensure` on the next connection.
            ConfigError: the broker takes no payload of this size, or does not keep what it acknowledges.
        """
        self._check_size(blob)
        chunks, index = self._pieces(blob)
        await self._send(chunks)
        await self._send(index)
        if await self._missing(_samples(chunks, index)):
            await self.ensure(blob)

    async def ensure(self, blob: ModelBlob) -> int:
        """Publish what is missing of a model; return how many pieces that were.

        Raises:
            TransportError, ConfigError: as for `publish`.
        """
        self._check_size(blob)
        chunks, index = self._pieces(blob)
        unseen, samples, n_sent, n_vain = [*chunks, *index], _samples(chunks, index), 0, 0
        # a broker that has forgotten them has forgotten everything: waiting for each piece would only cost time
        has_forgotten = len(await self._missing(samples, is_hurried=True)) == len(samples)
        while missing := unseen if has_forgotten else await self._missing(unseen):
            # what was seen once is there: one that only loses some is seen to have a little more each time
            n_vain = 0 if len(missing) < len(unseen) else n_vain + 1
            if n_vain > ATTEMPTS:
                raise ConfigError(
                    f"the broker acknowledges the model's chunks and does not keep them: {missing[0].topic}",
                    where="broker",
                    hint="its access rules must let the aggregator write run/#, retained messages must be on, and a "
                    "limit on their size (Mosquitto: message_size_limit) must not be below transfer.chunk_bytes",
                )
            await self._send(missing)
            n_sent, unseen, has_forgotten = n_sent + len(missing), missing, False
        return n_sent

    async def delete(self, gone: Sequence[ModelRef], kept: Sequence[ModelRef], n_bytes: int) -> None:
        """Delete models by digest, but for digests that a kept version shares.

        Args:
            gone: as `which_to_delete` chose.
            kept: all that stay.
            n_bytes: of the flat vector.

        Raises:
            TransportError: the link is gone; delete again on the next connection.
        """
        shared = {ref.digest for ref in kept}
        for ref in {ref.digest: ref for ref in gone if ref.digest not in shared}.values():
            names: list[IndexTopic | ModelTopic] = [
                IndexTopic(self._run, ref.digest, j) for j in range(len(ChunkLayout(ref.index_bytes, ref.chunk_bytes)))
            ]
            names += [ModelTopic(self._run, ref.digest, i) for i in range(len(ChunkLayout(n_bytes, ref.chunk_bytes)))]
            await self._send([_Piece(self._topics.build(name), b"", "") for name in names])

    def _pieces(self, blob: ModelBlob) -> tuple[list[_Piece], list[_Piece]]:
        """Return the chunks and the pieces of the index, nothing copied."""
        layout, digest = blob.index.layout, blob.ref.digest
        chunks = [
            _Piece(self._topics.build(ModelTopic(self._run, digest, i)), layout.cut(blob.data, i), sha256.hex())
            for i, sha256 in enumerate(blob.index.chunks)
        ]
        layout = ChunkLayout(blob.ref.index_bytes, blob.ref.chunk_bytes)
        cuts = [layout.cut(blob.index_bytes, j) for j in range(len(layout))]
        index = [
            _Piece(self._topics.build(IndexTopic(self._run, digest, j)), cut, sha256_hex(cut))
            for j, cut in enumerate(cuts)
        ]
        return chunks, index

    async def _send(self, pieces: Sequence[_Piece]) -> None:
        async def publish(piece: _Piece) -> None:
            await self._connection.publish(piece.topic, bytes(piece.payload), qos=1, retained=True)

        await _for_each(pieces, publish)

    async def _missing(self, pieces: Sequence[_Piece], *, is_hurried: bool = False) -> list[_Piece]:
        """Read pieces back, and return those that do not come or are not what they should be."""
        missing: list[_Piece] = []
        async with self._reading:
            for start in range(0, len(pieces), WINDOW):
                window = pieces[start : start + WINDOW]
                self._expected = {piece.topic: piece.sha256 for piece in window}
                try:
                    since = asyncio.get_running_loop().time()
                    # one topic a packet: some brokers handle no more than that well
                    await _for_each(window, lambda piece: self._connection.subscribe([piece.topic]))
                    took_s = asyncio.get_running_loop().time() - since
                    hurried_s = max(HURRIED_LEAST_S, HURRIED_ROUND_TRIPS * took_s)
                    await self._all_arrived(min(READ_BACK_S, hurried_s) if is_hurried else READ_BACK_S)
                    missing += [piece for piece in window if piece.topic in self._expected]
                finally:
                    self._expected = {}
                await self._connection.unsubscribe([piece.topic for piece in window])
        return missing

    async def _all_arrived(self, patience_s: float) -> None:
        while self._expected:
            self._arrival.clear()
            try:
                async with asyncio.timeout(patience_s):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _check_size(self, blob: ModelBlob) -> None:
        limit = self._connection.max_payload_bytes
        if limit is not None and blob.ref.chunk_bytes > limit:
            raise ConfigError(
                f"{blob.ref.chunk_bytes} bytes are more than the broker takes, which is {limit}",
                where="transfer.chunk_bytes",
                hint=f"set it to {limit // 4096 * 4096} or less, or raise the broker's packet limit",
            )


def _samples(chunks: Sequence[_Piece], index: Sequence[_Piece]) -> list[_Piece]:
    """Return what is read back: the last pieces, behind all others, and a chunk of full size, for limits on that."""
    return [*chunks[:-1][:1], chunks[-1], index[-1]]


async def _for_each(pieces: Sequence[_Piece], act: Callable[[_Piece], Awaitable[None]]) -> None:
    """Do something for each piece, WINDOW at a time."""
    waiting = iter(pieces)

    async def work() -> None:
        for piece in waiting:
            await act(piece)

    try:
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work(), name=f"publishing-{i}") for i in range(min(WINDOW, len(pieces)))]
            if workers:
                # Waited for in here: until Python 3.13 a child that fails while the group waits at its end leaves
                # its parent marked as being cancelled, and a lost link would end the session for good.
                await asyncio.wait(workers)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
