"""What becomes of a delivery when a switch is on, in virtual time; each effect as it was measured on a real broker."""

import asyncio

import pytest

from broker.link import LinkProfile
from broker.simulated import Faults, SimulatedBroker
from shared.errors import TransportError
from tests.broker.listening import now, numbers, payloads, publish_all

pytestmark = pytest.mark.virtual_time

FAR = LinkProfile(latency_s=1.0)
"""What is sent within a second is all under way at once."""


@pytest.mark.parametrize("qos", [0, 1])
async def test_loss_hits_its_own_qos_only(qos: int) -> None:
    """`lose_qos0` loses about as many at QoS 0 as it says; `lose_acknowledged` is the same lie at QoS 1."""
    mine = Faults(lose_qos0=0.3) if qos == 0 else Faults(lose_acknowledged=0.3)
    other = Faults(lose_qos0=0.3) if qos == 1 else Faults(lose_acknowledged=0.3)
    assert 600 < len(await publish_all(SimulatedBroker(faults=mine), 1000, qos=qos)) < 800
    assert await publish_all(SimulatedBroker(faults=other), 1000, qos=qos) == numbers(1000)


async def test_duplicates_arrive_twice_and_nothing_is_missing() -> None:
    """At QoS 1 some arrive twice, in order; at QoS 0 none does."""
    got = await publish_all(SimulatedBroker(faults=Faults(duplicate_qos1=0.3)), 1000, qos=1)
    assert 1200 < len(got) < 1400
    assert list(dict.fromkeys(got)) == numbers(1000)
    assert await publish_all(SimulatedBroker(faults=Faults(duplicate_qos1=0.3)), 100, qos=0) == numbers(100)


async def test_reordering_loses_nothing() -> None:
    """Messages overtake each other, and all arrive."""
    got = await publish_all(SimulatedBroker(faults=Faults(reorder=0.3)), 200, qos=1)
    assert got != numbers(200)
    assert sorted(got) == sorted(numbers(200))


async def test_same_seed_same_misbehaviour() -> None:
    """What happens is a function of the seed."""
    faults = Faults(lose_acknowledged=0.2, duplicate_qos1=0.2, reorder=0.2, link=LinkProfile(jitter_s=0.1))

    one, same, other = [await publish_all(SimulatedBroker(seed=seed, faults=faults), 100, qos=1) for seed in (1, 1, 2)]
    assert one == same
    assert one != other


async def test_one_in_ten_comes_minutes_late_on_the_same_connection() -> None:
    """`delay` holds a message back for up to ten minutes: the others pass it, and none is lost."""
    broker = SimulatedBroker(faults=Faults(delay=0.1))
    got = await publish_all(broker, 200, qos=1, until_s=700.0)
    assert sorted(got) == sorted(numbers(200))
    assert broker.struck["delay"] == len(set(numbers(200)) - set(got[: 200 - broker.struck["delay"]])) > 5
    assert len(await publish_all(SimulatedBroker(faults=Faults(delay=0.1)), 200, qos=1, until_s=30.0)) < 200
    assert await publish_all(SimulatedBroker(), 200, qos=1, until_s=30.0) == numbers(200)


async def test_what_is_late_is_lost_with_its_connection() -> None:
    """Sessions are clean: a receiver that comes back gets nothing of what its former life was sent."""
    broker = SimulatedBroker(faults=Faults(delay=1.0))
    async with broker.transport("a").connect() as sender:
        async with broker.transport("b").connect() as receiver:
            await receiver.subscribe(["x"])
            await sender.publish("x", b"late")
        async with broker.transport("b").connect() as receiver:
            await receiver.subscribe(["x"])
            assert await payloads(receiver, 700.0) == []
    assert broker.struck["delay"] == 1


async def _to_a_far_receiver(broker: SimulatedBroker, n: int, *, qos: int = 1) -> list[bytes]:
    """Publish n messages at once to a client that has none of them yet; each publish succeeds."""
    async with broker.transport("b", FAR).connect() as receiver, broker.transport("a").connect() as sender:
        await receiver.subscribe(["x"])
        for i in range(n):
            await sender.publish("x", b"%d" % i, qos=qos)
        return await payloads(receiver)


async def test_full_queue_acknowledges_and_drops() -> None:
    """300 published to a client that reads none, 300 acknowledged, and the first 100 arrive; QoS 0 has no queue."""
    faults = Faults(max_queued_messages=100)
    broker = SimulatedBroker(faults=faults)
    assert await _to_a_far_receiver(broker, 300) == numbers(100)
    assert broker.struck["max_queued_messages"] == 200
    assert await _to_a_far_receiver(SimulatedBroker(faults=faults), 300, qos=0) == numbers(300)
    assert await _to_a_far_receiver(SimulatedBroker(), 300) == numbers(300)


async def test_queue_is_counted_for_each_receiver_and_empties() -> None:
    """A client that keeps up loses nothing beside one that does not, nor does that one once it has caught up."""
    broker = SimulatedBroker(faults=Faults(max_queued_messages=10))
    async with (
        broker.transport("far", FAR).connect() as far,
        broker.transport("near").connect() as near,
        broker.transport("a").connect() as sender,
    ):
        for receiver in (far, near):
            await receiver.subscribe(["x"])
        for _ in range(2):
            for i in range(20):
                await sender.publish("x", b"%d" % i)
            assert await payloads(near, 5.0) == numbers(20)
            assert await payloads(far, 5.0) == numbers(10)


async def test_stalled_head_waits_for_the_next_publish() -> None:
    """Behind 20 under way nothing more comes, for hours, until somebody publishes again; 19 are no trouble."""
    broker = SimulatedBroker(faults=Faults(stalled_head=20))
    async with broker.transport("b", FAR).connect() as receiver, broker.transport("a").connect() as sender:
        await receiver.subscribe(["x"])
        for i in range(30):
            await sender.publish("x", b"%d" % i)
        assert await payloads(receiver, 10_000.0) == numbers(30)[:20]
        await sender.publish("x", b"30")
        assert await payloads(receiver) == numbers(31)[20:]
    assert broker.struck["stalled_head"] == 10
    assert await _to_a_far_receiver(SimulatedBroker(faults=Faults(stalled_head=20)), 20) == numbers(20)
    assert await _to_a_far_receiver(SimulatedBroker(), 30) == numbers(30)


async def test_unacknowledged_message_is_discarded_after_five_seconds() -> None:
    """By hand: at 20 bytes a second a message of 12 takes 0.6 s, so the eighth arrives after 4.8 s and no later one."""
    thin = LinkProfile(down_bytes_per_s=20.0)
    for faults, arrive in ((Faults(discard_after_s=5.0), 8), (Faults(), 10)):
        broker = SimulatedBroker(faults=faults)
        async with broker.transport("b", thin).connect() as receiver, broker.transport("a").connect() as sender:
            await receiver.subscribe(["x"])
            for i in range(10):
                await sender.publish("x", b"%d" % i)
            assert await payloads(receiver, 30.0) == numbers(arrive)
            assert broker.struck["discard_after_s"] == 10 - arrive


async def test_switches_may_change_while_messages_are_under_way() -> None:
    """What was held or counted under other switches neither comes back nor stops what comes after it."""
    broker = SimulatedBroker(faults=Faults(max_queued_messages=5))
    async with broker.transport("b", FAR).connect() as receiver, broker.transport("a").connect() as sender:
        await receiver.subscribe(["x"])
        for i in range(5):
            await sender.publish("x", b"%d" % i)
        broker.faults = Faults()
        for i in range(5, 10):
            await sender.publish("x", b"%d" % i)
        assert await payloads(receiver) == numbers(10)


async def test_broker_without_faults_asks_the_dice_nothing() -> None:
    """With every switch off the generator is as it was made: no run changes because a switch was added."""
    broker = SimulatedBroker(seed=5)
    before = broker._rng.getstate()
    assert await publish_all(broker, 10, qos=1) == numbers(10)
    broker.cut("b")
    assert broker._rng.getstate() == before
    assert broker._misdelivery is None
    assert not broker.struck


async def test_delayed_messages_to_nobody_do_no_harm() -> None:
    """A broker that dies while it holds messages back is done with them."""
    broker = SimulatedBroker(faults=Faults(delay=1.0, duplicate_qos1=1.0))
    async with broker.transport("b").connect() as receiver, broker.transport("a").connect() as sender:
        await receiver.subscribe(["x"])
        await sender.publish("x", b"1")
        broker.restart()
        began = now()
        await asyncio.sleep(700.0)
        with pytest.raises(TransportError):
            await anext(receiver.messages())
    assert now() - began == 700.0
