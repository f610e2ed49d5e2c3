"""What every transport promises, on every broker: `test_contract.py` runs it on all of them.

A test gets a `Rig`: transports for ids of its own, and a way to break a client's link. Topics start with the rig's
`root`, which is new for each test, because a broker is shared by many.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from broker.transport import Connection, Message, Transport, Will
from shared.errors import InvalidState, TransportError

PATIENCE_S = 8.0
"""No broker of ours takes longer than this to do anything."""


class Rig(Protocol):
    """A broker with something between it and each client that can be broken."""

    root: str

    async def transport(self, name: str) -> Transport:
        """Return a way to the broker for a client of this name."""

    async def cut(self, name: str) -> None:
        """Break the link of the transport last made for `name`, without a goodbye, and keep it down."""


async def next_message(messages: AsyncIterator[Message]) -> Message:
    """Return the next message, or fail."""
    async with asyncio.timeout(PATIENCE_S):
        return await anext(messages)


async def nothing_more(connection: Connection, messages: AsyncIterator[Message], marker: str) -> None:
    """Check that nothing arrived before a message that is sent now comes round."""
    await connection.subscribe([marker])
    await connection.publish(marker, b"marker")
    assert (await next_message(messages)).topic == marker


async def test_publish_qos1_delivers_once_in_order(rig: Rig) -> None:
    """On a good link everything arrives once, in order, unchanged and not marked as retained."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/x"])
        for i in range(20):
            await sender.publish(f"{rig.root}/x", b"%d" % i)
        messages = receiver.messages()
        for i in range(20):
            assert await next_message(messages) == Message(f"{rig.root}/x", b"%d" % i, retained=False)


async def test_publish_qos0_delivers(rig: Rig) -> None:
    """On a good link a message at QoS 0 arrives, too, whatever the subscription's QoS."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/x"], qos=0)
        messages = receiver.messages()
        await sender.publish(f"{rig.root}/x", b"zero", qos=0)
        assert (await next_message(messages)).payload == b"zero"
        await sender.publish(f"{rig.root}/x", b"one", qos=1)
        assert (await next_message(messages)).payload == b"one"


async def test_retained_message_arrives_on_subscribe_and_is_marked(rig: Rig) -> None:
    """Who subscribes later gets the newest retained message, marked as such."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender:
        await sender.publish(f"{rig.root}/x", b"old", retained=True)
        await sender.publish(f"{rig.root}/x", b"new", retained=True)
    async with b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/x"])
        assert await next_message(receiver.messages()) == Message(f"{rig.root}/x", b"new", retained=True)


async def test_subscribe_to_several_topics_brings_each_retained_message(rig: Rig) -> None:
    """Sixteen explicit topics in one packet bring sixteen retained messages: how a device fetches chunks."""
    a, b = await rig.transport("a"), await rig.transport("b")
    topics = [f"{rig.root}/chunk/{i}" for i in range(16)]
    async with a.connect() as sender, b.connect() as receiver:
        for topic in topics:
            await sender.publish(topic, topic.encode(), retained=True)
        await receiver.subscribe(topics)
        messages = receiver.messages()
        got = [await next_message(messages) for _ in topics]
        assert {m.topic for m in got} == set(topics)
        assert all(m.payload == m.topic.encode() and m.retained for m in got)


async def test_subscribing_again_brings_the_retained_message_again(rig: Rig) -> None:
    """A chunk that did not come is asked for by subscribing once more."""
    a = await rig.transport("a")
    async with a.connect() as connection:
        await connection.publish(f"{rig.root}/x", b"kept", retained=True)
        messages = connection.messages()
        for _ in range(2):
            await connection.subscribe([f"{rig.root}/x"])
            assert (await next_message(messages)).payload == b"kept"


async def test_empty_retained_message_deletes(rig: Rig) -> None:
    """After an empty retained message nothing is retained."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        await sender.publish(f"{rig.root}/x", b"kept", retained=True)
        await sender.publish(f"{rig.root}/x", b"", retained=True)
        await receiver.subscribe([f"{rig.root}/x"])
        await nothing_more(receiver, receiver.messages(), f"{rig.root}/marker")


async def test_unsubscribe_ends_delivery(rig: Rig) -> None:
    """After `unsubscribe` returned nothing more comes on those topics, and others go on."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/x", f"{rig.root}/y", f"{rig.root}/z"])
        await receiver.unsubscribe([f"{rig.root}/x", f"{rig.root}/y"])
        for name in "xyz":
            await sender.publish(f"{rig.root}/{name}", b"")
        assert (await next_message(receiver.messages())).topic == f"{rig.root}/z"


async def test_wildcards_match_levels(rig: Rig) -> None:
    """`+` is one level, `#` all that follow; a message that two filters match may come once or twice, but it comes."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/from/+/status", f"{rig.root}/all/#"])
        for topic in ("from/d1/status", "from/d1/x/status", "from/status", "all", "all/1/2", "other", "from/d2/status"):
            await sender.publish(f"{rig.root}/{topic}", b"")
        messages = receiver.messages()
        got = [(await next_message(messages)).topic.removeprefix(f"{rig.root}/") for _ in range(4)]
        assert got == ["from/d1/status", "all", "all/1/2", "from/d2/status"]


async def test_wildcard_at_qos0_brings_every_retained_status(rig: Rig) -> None:
    """Presence: one wildcard at QoS 0 brings what 200 devices retained."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        for i in range(200):
            await sender.publish(f"{rig.root}/from/{i}/status", b"%d" % i, retained=True)
        await receiver.subscribe([f"{rig.root}/from/+/status"], qos=0)
        messages = receiver.messages()
        assert {int((await next_message(messages)).payload) for _ in range(200)} == set(range(200))


async def test_chunk_sized_payload_arrives_whole(rig: Rig) -> None:
    """A chunk of 120 KiB arrives as it was, live and retained."""
    a, b = await rig.transport("a"), await rig.transport("b")
    payload = bytes(range(256)) * 480
    async with a.connect() as sender, b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/live"])
        await sender.publish(f"{rig.root}/live", payload)
        messages = receiver.messages()
        assert (await next_message(messages)).payload == payload
        await sender.publish(f"{rig.root}/kept", payload, retained=True)
        await receiver.subscribe([f"{rig.root}/kept"])
        assert (await next_message(messages)).payload == payload


async def test_many_publishes_at_once_all_return_and_arrive(rig: Rig) -> None:
    """64 tasks may publish through one connection at the same time, as a pipelined upload does."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as sender, b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/chunk/+"])
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            for i in range(64):
                tasks.create_task(sender.publish(f"{rig.root}/chunk/{i}", bytes(8192)))
        messages = receiver.messages()
        got = {(await next_message(messages)).topic for _ in range(64)}
        assert got == {f"{rig.root}/chunk/{i}" for i in range(64)}


async def test_publish_on_a_topic_with_wildcards_is_our_own_mistake(rig: Rig) -> None:
    """No broker is asked to publish on a filter."""
    a = await rig.transport("a")
    async with a.connect() as connection:
        with pytest.raises(InvalidState):
            await connection.publish(f"{rig.root}/+", b"")
        with pytest.raises(InvalidState):
            await connection.subscribe([f"{rig.root}/x#"])


async def test_goodbye_sends_no_will(rig: Rig) -> None:
    """Leaving the context in good order leaves the will unsent."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/status"])
        async with a.connect(will=Will(f"{rig.root}/status", b"gone")) as connection:
            await connection.publish(f"{rig.root}/status", b"online")
        messages = receiver.messages()
        assert (await next_message(messages)).payload == b"online"
        await nothing_more(receiver, messages, f"{rig.root}/marker")


async def test_leaving_with_an_exception_sends_the_will(rig: Rig) -> None:
    """A program that dies of an error says no goodbye, and the broker sends its will, retained."""
    a, b, c = [await rig.transport(name) for name in "abc"]
    async with b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/status"])
        with pytest.raises(ZeroDivisionError):
            async with a.connect(will=Will(f"{rig.root}/status", b"gone")):
                raise ZeroDivisionError
        assert (await next_message(receiver.messages())).payload == b"gone"
    async with c.connect() as late:
        await late.subscribe([f"{rig.root}/status"])
        assert await next_message(late.messages()) == Message(f"{rig.root}/status", b"gone", retained=True)


async def test_cancelling_sends_the_will(rig: Rig) -> None:
    """A cancelled task, too, leaves without a goodbye."""
    a, b = await rig.transport("a"), await rig.transport("b")
    connected = asyncio.Event()

    async def stay() -> None:
        async with a.connect(will=Will(f"{rig.root}/status", b"gone")) as connection:
            connected.set()
            async for _ in connection.messages():
                pass

    async with b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/status"])
        task = asyncio.create_task(stay())
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await next_message(receiver.messages())).payload == b"gone"


async def test_lost_link_sends_the_will(rig: Rig) -> None:
    """When the link breaks the broker sends the will."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with b.connect() as receiver:
        await receiver.subscribe([f"{rig.root}/status"])
        async with a.connect(will=Will(f"{rig.root}/status", b"gone")) as connection:
            await rig.cut("a")
            with pytest.raises(TransportError):
                await next_message(connection.messages())
        assert (await next_message(receiver.messages())).payload == b"gone"


async def test_lost_link_ends_messages_and_every_call(rig: Rig) -> None:
    """When the link breaks whoever waits for a message learns of it, and every later call raises; leaving is silent."""
    a = await rig.transport("a")
    async with a.connect() as connection:
        await connection.subscribe([f"{rig.root}/x"])
        waiting = asyncio.create_task(next_message(connection.messages()))
        await asyncio.sleep(0)
        await rig.cut("a")
        with pytest.raises(TransportError):
            await waiting
        for call in (
            connection.publish(f"{rig.root}/x", b""),
            connection.publish(f"{rig.root}/x", b"", qos=0),
            connection.subscribe([f"{rig.root}/x"]),
            connection.unsubscribe([f"{rig.root}/x"]),
        ):
            with pytest.raises(TransportError):
                await call


async def test_lost_link_ends_pending_publishes(rig: Rig) -> None:
    """Publishes that wait for their acknowledgement when the link breaks raise within moments, not after a timeout."""
    a = await rig.transport("a")
    async with a.connect() as connection:

        async def publish_for_ever() -> None:
            while True:
                await connection.publish(f"{rig.root}/x", bytes(1000))

        publishers = [asyncio.create_task(publish_for_ever()) for _ in range(8)]
        await connection.publish(f"{rig.root}/x", b"")
        await rig.cut("a")
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(*publishers, return_exceptions=True)
        assert all(isinstance(outcome, TransportError) for outcome in outcomes)


async def test_connect_on_a_broken_link_is_a_transport_error(rig: Rig) -> None:
    """Nobody there: try again later."""
    a = await rig.transport("a")
    async with a.connect():
        pass
    await rig.cut("a")
    with pytest.raises(TransportError):
        async with a.connect():
            pass


async def test_second_client_with_the_same_id_takes_over(rig: Rig) -> None:
    """The newer of two clients with one id stays, the older one's link ends, and its subscriptions with it."""
    old, new, c = await rig.transport("a"), await rig.transport("a"), await rig.transport("c")
    async with c.connect() as third, old.connect() as first:
        await first.subscribe([f"{rig.root}/x"])
        async with new.connect() as second:
            await second.subscribe([f"{rig.root}/y"])
            with pytest.raises(TransportError):
                await next_message(first.messages())
            await third.publish(f"{rig.root}/x", b"for nobody")
            await third.publish(f"{rig.root}/y", b"for the second")
            assert (await next_message(second.messages())).payload == b"for the second"


async def test_new_connection_starts_clean(rig: Rig) -> None:
    """A client that comes back has no subscriptions and gets nothing of what was sent meanwhile."""
    a, b = await rig.transport("a"), await rig.transport("b")
    async with a.connect() as before:
        await before.subscribe([f"{rig.root}/x"])
    async with b.connect() as sender:
        await sender.publish(f"{rig.root}/x", b"meanwhile")
        async with a.connect() as after:
            await sender.publish(f"{rig.root}/x", b"now")
            await nothing_more(after, after.messages(), f"{rig.root}/marker")


async def test_one_transport_connects_many_times(rig: Rig) -> None:
    """A transport is a way, not a connection: it may be used again and again."""
    a = await rig.transport("a")
    for i in range(5):
        async with a.connect() as connection:
            await connection.subscribe([f"{rig.root}/x"])
            await connection.publish(f"{rig.root}/x", b"%d" % i)
            assert (await next_message(connection.messages())).payload == b"%d" % i
