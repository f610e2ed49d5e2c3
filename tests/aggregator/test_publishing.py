"""The model goes down whole, is read back, and goes away by digest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.publishing import KEPT_VERSIONS, MAX_BLOBS, ModelBlob, Publisher, model_blob, which_to_delete
from broker.simulated import Faults, SimulatedBroker
from broker.transport import Message
from shared.chunking import ChunkLayout, sha256_hex
from shared.errors import ConfigError, TransportError
from shared.messages import ModelRef
from shared.parameters import ParameterSpec
from shared.task import Initial
from shared.topics import IndexTopic, ModelTopic, Topics
from shared.wire import decode_index

TOPICS = Topics("demo")
RUN = "digits"
N_PARAMS = 50_000
CHUNK_BYTES = 4096

pytestmark = pytest.mark.virtual_time


def a_blob(seed: int = 1, version: int = 1, n_params: int = N_PARAMS) -> ModelBlob:
    """Return a random model cut for the wire."""
    vector = np.random.default_rng(seed).standard_normal(n_params, dtype=np.float32)
    spec = ParameterSpec.of(Initial({"w": vector}))
    return model_blob(vector, spec, version, CHUNK_BYTES)


def a_ref(version: int, digest: str | None = None) -> ModelRef:
    """Return a model by name."""
    name = digest if digest is not None else sha256_hex(str(version).encode())
    return ModelRef(version=version, digest=name, index_bytes=100, chunk_bytes=CHUNK_BYTES)


@asynccontextmanager
async def a_publisher(broker: SimulatedBroker) -> AsyncIterator[Publisher]:
    """Connect, and hand what arrives to the publisher as a service does."""
    async with broker.transport("aggregator").connect() as connection:
        publisher = Publisher(connection, TOPICS, RUN)

        async def listen() -> None:
            try:
                async for message in connection.messages():
                    publisher.arrived(message)
            except TransportError:
                return

        listening = asyncio.create_task(listen())
        try:
            yield publisher
        finally:
            listening.cancel()


def fetched(broker: SimulatedBroker, ref: ModelRef) -> bytes:
    """Return the model as a device puts it together from what is retained, every digest checked."""
    n_pieces = len(ChunkLayout(ref.index_bytes, ref.chunk_bytes))
    pieces = [broker.retained[TOPICS.build(IndexTopic(RUN, ref.digest, j))] for j in range(n_pieces)]
    index = decode_index(b"".join(pieces), ref)
    chunks = [broker.retained[TOPICS.build(ModelTopic(RUN, ref.digest, i))] for i in range(len(index.layout))]
    assert [bytes.fromhex(sha256_hex(chunk)) for chunk in chunks] == list(index.chunks)
    whole = b"".join(chunks)
    assert sha256_hex(whole) == index.sha256
    return whole


def forget(broker: SimulatedBroker, wanted: Callable[[str], bool]) -> list[str]:
    """Let the broker lose retained messages; return their topics."""
    gone = [topic for topic in broker.retained if wanted(topic)]
    for topic in gone:
        broker._route(topic, b"", 0, True)
    return gone


async def test_published_model_is_there_to_the_bit() -> None:
    """A device that knows the manifest alone gets the very model."""
    broker, blob = SimulatedBroker(), a_blob()
    async with a_publisher(broker) as publisher:
        await publisher.publish(blob)
    assert fetched(broker, blob.ref) == bytes(blob.data)


async def test_model_of_one_parameter_has_one_chunk() -> None:
    """The smallest model travels like any other."""
    broker, blob = SimulatedBroker(), a_blob(n_params=1)
    async with a_publisher(broker) as publisher:
        await publisher.publish(blob)
    assert len(broker.retained) == 2
    assert fetched(broker, blob.ref) == bytes(blob.data)


@given(st.integers(1, 5000), st.sampled_from([4096, 8192, 122_880]))
def test_same_model_has_the_same_name(n_params: int, chunk_bytes: int) -> None:
    """The name depends on values, spec and chunk size, never on the version."""
    vector = np.arange(n_params, dtype=np.float32)
    spec = ParameterSpec.of(Initial({"w": vector}))
    blobs = [model_blob(vector, spec, version, chunk_bytes) for version in (1, 2)]
    assert blobs[0].ref.digest == blobs[1].ref.digest
    assert decode_index(blobs[0].index_bytes, blobs[0].ref) == blobs[0].index


async def test_ensure_publishes_exactly_what_is_missing() -> None:
    """After a restart of the aggregator what the broker still has is not sent again."""
    broker, blob = SimulatedBroker(), a_blob()
    async with a_publisher(broker) as publisher:
        await publisher.publish(blob)
        assert await publisher.ensure(blob) == 0
        gone = forget(broker, lambda topic: topic.endswith(("/3", "/17", "/20")))
        assert len(gone) == 3
        assert await publisher.ensure(blob) == 3
    assert fetched(broker, blob.ref) == bytes(blob.data)


async def test_ensure_replaces_a_chunk_that_is_another() -> None:
    """What lies there is compared, not only looked for."""
    broker, blob = SimulatedBroker(), a_blob()
    async with a_publisher(broker) as publisher:
        await publisher.publish(blob)
        broker._route(TOPICS.build(ModelTopic(RUN, blob.ref.digest, 5)), b"forged", 0, True)
        assert await publisher.ensure(blob) == 1
    assert fetched(broker, blob.ref) == bytes(blob.data)


async def test_ensure_after_the_broker_forgot_everything_publishes_all() -> None:
    """A broker restarted without persistence gets the whole model without a wait for each piece."""
    broker, blob = SimulatedBroker(), a_blob()
    started = asyncio.get_running_loop().time()
    async with a_publisher(broker) as publisher:
        assert await publisher.ensure(blob) == len(blob.index.layout) + 1
    assert fetched(broker, blob.ref) == bytes(blob.data)
    assert asyncio.get_running_loop().time() - started < 15


async def test_publish_to_a_broker_that_keeps_nothing_is_refused() -> None:
    """A denied publish is acknowledged all the same; the operator learns of it."""
    broker = SimulatedBroker(faults=Faults(lose_acknowledged=1.0))
    async with a_publisher(broker) as publisher:
        with pytest.raises(ConfigError, match="does not keep"):
            await publisher.publish(a_blob(n_params=10))


@pytest.mark.parametrize("seed", range(5))
async def test_publish_to_a_broker_that_loses_much_goes_on_while_it_gains(seed: int) -> None:
    """One that loses a quarter of its messages is seen to have more of the model each time: no reason to give up."""
    broker, blob = SimulatedBroker(seed=seed, faults=Faults(lose_acknowledged=0.25)), a_blob(n_params=2 * N_PARAMS)
    async with a_publisher(broker) as publisher:
        await publisher.publish(blob)
        assert await publisher.ensure(blob) >= 0
    assert TOPICS.build(ModelTopic(RUN, blob.ref.digest, 0)) in broker.retained


async def test_publish_to_a_broker_that_drops_what_is_large_is_refused() -> None:
    """The last chunk, being shorter, is kept; the others are acknowledged and gone, and the operator learns of it."""
    broker = SimulatedBroker(faults=Faults(drop_above_bytes=4095))
    async with a_publisher(broker) as publisher:
        with pytest.raises(ConfigError, match="message_size_limit"):
            await publisher.publish(a_blob())


async def test_publish_that_fails_leaves_its_caller_uncancelled() -> None:
    """Whoever catches the loss goes on with the next connection: nothing says that it is to end."""
    broker = SimulatedBroker(faults=Faults(cut_above_bytes=1000))
    task = asyncio.current_task()
    assert task is not None
    async with broker.transport("aggregator").connect() as connection:
        with pytest.raises(TransportError):
            await Publisher(connection, TOPICS, RUN).publish(a_blob())
        assert task.cancelling() == 0


async def test_publish_of_chunks_over_the_brokers_limit_is_refused_before_anything_is_sent() -> None:
    """The setting to change is named."""
    broker = SimulatedBroker(faults=Faults(max_payload_bytes=4000))
    async with a_publisher(broker) as publisher:
        with pytest.raises(ConfigError, match=r"transfer\.chunk_bytes"):
            await publisher.publish(a_blob())
    assert not broker.retained


async def test_publish_over_a_link_that_breaks_raises_one_transport_error() -> None:
    """The caller meets the same error as at any other publish, and a new connection makes it good."""
    broker, blob = SimulatedBroker(), a_blob()
    async with a_publisher(broker) as publisher:
        asyncio.get_running_loop().call_soon(broker.cut, "aggregator")
        with pytest.raises(TransportError):
            await publisher.publish(blob)
    async with a_publisher(broker) as publisher:
        await publisher.ensure(blob)
    assert fetched(broker, blob.ref) == bytes(blob.data)


async def test_delete_leaves_what_a_kept_version_shares() -> None:
    """Two versions with the same parameters are one blob: it goes with the last of them."""
    broker, first, same, other = SimulatedBroker(), a_blob(1, 1), a_blob(1, 2), a_blob(2, 3)
    async with a_publisher(broker) as publisher:
        for blob in (first, same, other):
            await publisher.publish(blob)
        await publisher.delete([first.ref], [same.ref, other.ref], len(first.data))
        assert fetched(broker, same.ref) == bytes(same.data)
        await publisher.delete([first.ref, same.ref], [other.ref], len(first.data))
    assert fetched(broker, other.ref) == bytes(other.data)
    assert all(other.ref.digest in topic for topic in broker.retained)


async def test_arrived_leaves_other_messages_alone() -> None:
    """What is not being read back is the service's."""
    async with a_publisher(SimulatedBroker()) as publisher:
        assert not publisher.arrived(Message("fl/v1/demo/fleet", b"x"))


def test_last_three_versions_stay() -> None:
    """Older ones that nobody fetches go, the oldest first."""
    refs = [a_ref(version) for version in (2, 5, 1, 4, 3)]
    assert [ref.version for ref in which_to_delete(refs, set())] == [1, 2]


def test_version_that_a_lease_is_fetching_stays() -> None:
    """A slow device does not lose the model under its feet."""
    refs = [a_ref(version) for version in range(1, 7)]
    assert [ref.version for ref in which_to_delete(refs, {2})] == [1, 3]


def test_past_eight_blobs_the_oldest_goes_whoever_names_it() -> None:
    """The broker's memory is bounded."""
    refs = [a_ref(version) for version in range(1, 12)]
    assert [ref.version for ref in which_to_delete(refs, set(range(1, 12)))] == [1, 2, 3]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), unique_by=lambda v: v[0]), st.sets(st.integers(0, 30))
)
def test_kept_and_deleted_versions_are_all_there_were(published: list[tuple[int, int]], live: set[int]) -> None:
    """Whatever is published: the newest stay, at most eight blobs stay, nothing is both or neither."""
    refs = [a_ref(version, sha256_hex(str(blob).encode())) for version, blob in published]
    gone = which_to_delete(refs, live)
    kept = [ref for ref in refs if ref not in gone]
    assert len({ref.digest for ref in kept}) <= MAX_BLOBS
    newest = sorted(refs, key=lambda ref: -ref.version)[:KEPT_VERSIONS]
    assert all(ref in kept for ref in newest)
    assert gone == sorted(gone, key=lambda ref: ref.version)
