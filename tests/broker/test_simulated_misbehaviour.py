"""What the simulated broker does wrong apart from single deliveries: crashes, wills, leaks, wildcards, sizes."""

import asyncio

import pytest

from broker.link import LinkProfile
from broker.simulated import Faults, SimulatedBroker
from broker.transport import Message, Will
from shared.errors import TransportError
from tests.broker.listening import arrivals, now, numbers, payloads

pytestmark = pytest.mark.virtual_time


async def _retain(broker: SimulatedBroker, n: int) -> None:
    async with broker.transport("publisher").connect() as connection:
        for i in range(n):
            await connection.publish(f"model/{i}", b"%d" % i, retained=True)


async def _fetch(broker: SimulatedBroker, topics: list[str], *, qos: int) -> list[bytes]:
    async with broker.transport("reader").connect() as connection:
        await connection.subscribe(topics, qos=qos)
        return await payloads(connection)


async def test_wildcard_at_qos1_is_truncated() -> None:
    """1500 retained, one wildcard at QoS 1: 1020 come. At QoS 0, or asked for by name, all do."""
    broker = SimulatedBroker(faults=Faults(wildcard_retained=1020))
    await _retain(broker, 1500)
    assert await _fetch(broker, ["model/+"], qos=1) == numbers(1020)
    assert broker.struck["wildcard_retained"] == 480
    assert await _fetch(broker, ["model/#"], qos=0) == numbers(1500)
    assert await _fetch(broker, [f"model/{i}" for i in range(1500)], qos=1) == numbers(1500)
    broker.faults = Faults()
    assert await _fetch(broker, ["model/+"], qos=1) == numbers(1500)


@pytest.mark.parametrize("leaks", [True, False])
async def test_stranger_gets_what_others_subscribed_to(leaks: bool) -> None:
    """A client that subscribed to nothing receives what is retained and matches anybody else's filter; no more."""
    broker = SimulatedBroker(faults=Faults(leak_retained=leaks))
    async with broker.transport("dev1").connect() as owner:
        await owner.subscribe(["secret/for/dev1"])
        for topic in ("secret/for/dev1", "wanted/by/nobody"):
            await owner.publish(topic, b"x", retained=True)
        async with broker.transport("stranger").connect() as stranger:
            expected = [Message("secret/for/dev1", b"x", retained=True)] if leaks else []
            assert await arrivals(stranger) == expected
    assert broker.struck["leak_retained"] == len(expected)


async def test_late_will_overwrites_what_a_client_said_after_it_came_back() -> None:
    """Its former connection's "off" is retained over its new "on": minutes later, and from a life that is over."""
    broker = SimulatedBroker(faults=Faults(late_will=1.0, late_will_s=90.0))
    async with broker.transport("a").connect(will=Will("status", b"off-1")) as first:
        await first.publish("status", b"on-1", retained=True)
        broker.cut("a")
    async with broker.transport("a").connect(will=Will("status", b"off-2")) as second:
        await second.publish("status", b"on-2", retained=True)
        assert broker.retained["status"] == b"on-2"
        await asyncio.sleep(90.0)
        assert broker.retained["status"] == b"off-1"


async def test_will_comes_right_before_the_newcomers_word_at_takeover() -> None:
    """As in MQTT 3.1.1: the old "off", then the new "on"; it needs no switch."""
    broker = SimulatedBroker()
    async with broker.transport("watch").connect() as watcher:
        await watcher.subscribe(["status"])
        async with broker.transport("a").connect(will=Will("status", b"off-1")), broker.transport("a").connect() as new:
            await new.publish("status", b"on-2", retained=True)
            assert await payloads(watcher) == [b"off-1", b"on-2"]


@pytest.mark.parametrize("loses", [True, False])
async def test_will_is_lost(loses: bool) -> None:
    """What a dead client last said of itself stays, and nobody is told."""
    broker = SimulatedBroker(faults=Faults(lose_will=1.0 if loses else 0.0))
    async with broker.transport("a").connect(will=Will("status", b"off")) as connection:
        await connection.publish("status", b"on", retained=True)
        broker.cut("a")
    assert broker.retained["status"] == (b"on" if loses else b"off")


async def test_broker_that_dies_takes_late_wills_with_it() -> None:
    """A will that waits is no message: it does not survive even where everything retained does."""
    broker = SimulatedBroker(faults=Faults(late_will=1.0, autosave_s=0.0))
    async with broker.transport("a").connect(will=Will("status", b"off")) as connection:
        await connection.publish("status", b"on", retained=True)
        broker.cut("a")
    broker.restart()
    await asyncio.sleep(1_000.0)
    assert dict(broker.retained) == {"status": b"on"}


@pytest.mark.parametrize(
    ("autosave_s", "left"),
    [(None, {}), (60.0, {"old": b"1", "deleted": b"1"}), (0.0, {"old": b"2", "new": b"1"})],
)
async def test_crash_leaves_what_was_saved(autosave_s: float | None, left: dict[str, bytes]) -> None:
    """Nothing, a stale picture in which old is current and deleted is back, or all; subscriptions are gone anyway."""
    broker = SimulatedBroker(faults=Faults(autosave_s=autosave_s))
    async with broker.transport("a").connect() as connection:
        await connection.subscribe(["old"])
        await connection.publish("old", b"1", retained=True)
        await connection.publish("deleted", b"1", retained=True)
        await asyncio.sleep(61.0)
        await connection.publish("old", b"2", retained=True)
        await connection.publish("new", b"1", retained=True)
        await connection.publish("deleted", b"", retained=True)
        broker.restart()
        assert dict(broker.retained) == left
    async with broker.transport("a").connect() as connection, broker.transport("b").connect() as other:
        await other.publish("old", b"3")
        assert await payloads(connection) == []


async def _n_losses(broker: SimulatedBroker, until_s: float) -> int:
    """Connect again and again, and return how often the connection was lost."""
    losses = 0
    while now() < until_s:
        try:
            async with broker.transport("a").connect() as connection, asyncio.timeout_at(until_s):
                await anext(connection.messages())
        except TransportError as error:
            losses += "gone" in str(error)
            await asyncio.sleep(1.0)
        except TimeoutError:
            break
    return losses


async def test_broker_crashes_by_itself_and_comes_back() -> None:
    """At instants that the seed decides: about ten times in a thousand seconds, and never when it is switched off."""
    faults = Faults(crash_every_s=100.0, crash_lasts_s=5.0)
    broker = SimulatedBroker(seed=1, faults=faults)
    losses = await _n_losses(broker, 1_000.0)
    assert 5 <= losses <= 20
    assert broker.struck["crash_every_s"] == losses
    broker.faults = Faults()
    assert await _n_losses(broker, 10_000.0) == 0


async def test_crash_may_be_switched_on_while_clients_are_connected() -> None:
    """The switch strikes those who are there already; a broker that was stopped by hand stays down."""
    broker = SimulatedBroker(seed=1)
    async with broker.transport("a").connect() as connection:
        broker.faults = Faults(crash_every_s=100.0)
        with pytest.raises(TransportError):
            await anext(connection.messages())
    broker.stop()
    await asyncio.sleep(1_000.0)
    with pytest.raises(TransportError):
        async with broker.transport("a").connect():
            pass


SLOW = LinkProfile(latency_s=0.1)


@pytest.mark.parametrize("link", [None, SLOW])
async def test_oversize_is_acknowledged_and_dropped(link: LinkProfile | None) -> None:
    """As by `message_size_limit` in MQTT 3.1.1: nothing tells its publisher, and the next one arrives."""
    broker = SimulatedBroker(faults=Faults(drop_above_bytes=100))
    async with broker.transport("a", link).connect() as connection:
        await connection.subscribe(["x"])
        await connection.publish("x", bytes(101), retained=True)
        await connection.publish("x", bytes(100))
        assert await payloads(connection) == [bytes(100)]
    assert dict(broker.retained) == {}
    assert broker.struck["drop_above_bytes"] == 1


@pytest.mark.parametrize("link", [None, SLOW])
async def test_oversize_costs_the_connection(link: LinkProfile | None) -> None:
    """As by `max_packet_size`: its publisher is thrown out, its will sent, and it may come back."""
    broker = SimulatedBroker(faults=Faults(cut_above_bytes=100))
    transport = broker.transport("a", link)
    async with transport.connect(will=Will("status", b"off")) as connection:
        await connection.publish("x", bytes(100))
        with pytest.raises(TransportError, match="size"):
            await connection.publish("x", bytes(101))
        with pytest.raises(TransportError):
            await connection.publish("x", b"")
    assert dict(broker.retained) == {"status": b"off"}
    async with transport.connect() as connection:
        await connection.publish("x", bytes(100))
