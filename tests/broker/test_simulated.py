"""The simulated broker's own promises, in virtual time; what it shares with real ones is in `contract.py`."""

import asyncio

import pytest

from broker.link import Failures, LinkProfile
from broker.simulated import Faults, SimulatedBroker
from broker.transport import Message, Will
from shared.errors import ConfigError, CredentialsRefused, InvalidState, TransportError
from simulator.virtual_time import run_in_virtual_time
from tests.broker.listening import now, numbers, payloads, publish_all

pytestmark = pytest.mark.virtual_time

SLOW = LinkProfile(latency_s=0.1, up_bytes_per_s=1000.0, down_bytes_per_s=2000.0)


async def test_link_takes_its_time() -> None:
    """By hand: 979 bytes, 1 of topic and 10 of framing go up in 0.99 + 0.1 s, the answer comes in 0.005 + 0.1 s."""
    async with SimulatedBroker().transport("a", SLOW).connect() as connection:
        assert now() == pytest.approx(0.215)
        await connection.publish("x", bytes(979))
        assert now() - 0.215 == pytest.approx(1.195)


async def test_link_keeps_order_under_jitter() -> None:
    """Jitter delays, it does not reorder: a link is a TCP connection."""
    broker = SimulatedBroker(faults=Faults(link=LinkProfile(latency_s=0.01, jitter_s=1.0)))
    assert await publish_all(broker, 100, qos=0) == numbers(100)


async def test_suback_comes_before_retained_messages() -> None:
    """Subscribing to much over a thin link returns at once, and the messages follow in their own time."""
    broker = SimulatedBroker()
    async with broker.transport("a").connect() as sender:
        await sender.publish("x", bytes(20_000), retained=True)
    async with broker.transport("b", SLOW).connect() as receiver:
        before = now()
        await receiver.subscribe(["x"])
        assert now() - before < 0.3
        await anext(receiver.messages())
        assert now() - before > 10.0


async def test_restart_forgets_everything_and_sends_no_will() -> None:
    """A broker that dies takes sessions, retained messages and wills with it, and is there again at once."""
    broker = SimulatedBroker()
    async with broker.transport("a").connect(will=Will("status", b"gone")) as connection:
        await connection.publish("x", b"kept", retained=True)
        broker.restart()
        with pytest.raises(TransportError):
            await anext(connection.messages())
    async with broker.transport("a").connect() as connection:
        await connection.subscribe(["x", "status"])
        assert await payloads(connection) == []
    assert dict(broker.retained) == {}


async def test_stopped_broker_accepts_nobody_until_it_starts() -> None:
    """Unreachable is a TransportError: try again."""
    broker = SimulatedBroker()
    broker.stop()
    with pytest.raises(TransportError):
        async with broker.transport("a").connect():
            pass
    broker.start()
    async with broker.transport("a").connect():
        assert broker.connected == {"a"}
    assert broker.connected == set()


async def test_cut_for_good_lasts_until_mended() -> None:
    """One client's link goes down; the others' stay."""
    broker = SimulatedBroker()
    transport = broker.transport("a")
    async with broker.transport("b").connect():
        async with transport.connect() as connection:
            broker.cut("a", for_good=True)
            with pytest.raises(TransportError):
                await connection.publish("x", b"")
        with pytest.raises(TransportError):
            async with transport.connect():
                pass
        broker.mend("a")
        async with transport.connect():
            assert broker.connected == {"a", "b"}


async def test_refused_client_is_told_so() -> None:
    """Refused credentials are no TransportError: trying again changes nothing."""
    broker = SimulatedBroker(faults=Faults(link=SLOW))
    broker.refuse("a")
    with pytest.raises(CredentialsRefused):
        async with broker.transport("a").connect():
            pass
    broker.admit("a")
    async with broker.transport("a").connect():
        pass


async def test_taken_over_is_said() -> None:
    """The older of two clients with one id learns why its link ended, and its will is sent."""
    broker = SimulatedBroker()
    async with broker.transport("watch").connect() as watcher:
        await watcher.subscribe(["status"])
        async with (
            broker.transport("a").connect(will=Will("status", b"gone")) as first,
            broker.transport("a").connect(),
        ):
            with pytest.raises(TransportError) as caught:
                await anext(first.messages())
        assert caught.value.taken_over
        assert await anext(watcher.messages()) == Message("status", b"gone")


async def test_limit_is_announced_and_kept() -> None:
    """A message over the broker's limit is never sent: it is the operator's to change, and the link stays."""
    broker = SimulatedBroker(faults=Faults(max_payload_bytes=100))
    async with broker.transport("a").connect() as connection:
        assert connection.max_payload_bytes == 100
        with pytest.raises(ConfigError, match="100"):
            await connection.publish("x", bytes(101))
        await connection.publish("x", bytes(100))


async def test_outages_break_connections_and_end() -> None:
    """A client that connects again at once whenever it can is away for about the share of time of its outages."""
    link = LinkProfile(latency_s=0.01, outages=Failures(every_s=50.0, lasts_s=50.0))
    broker = SimulatedBroker(seed=3)
    transport = broker.transport("a", link)
    up_s, losses = 0.0, 0
    while now() < 4_000.0:
        try:
            async with transport.connect() as connection:
                since = now()
                await anext(connection.messages())
        except TransportError:
            if "since" in locals():
                up_s += now() - since
                losses += 1
                del since
            await asyncio.sleep(1.0)
    assert 20 < losses < 60
    assert 0.4 < up_s / now() < 0.6


async def test_stalls_delay_and_lose_nothing() -> None:
    """While a link is stalled nothing flows and nobody is told; then everything comes, in order."""
    link = LinkProfile(latency_s=0.01, stalls=Failures(every_s=5.0, lasts_s=3.0))
    broker = SimulatedBroker()
    async with broker.transport("b").connect() as receiver, broker.transport("a", link).connect() as sender:
        await receiver.subscribe(["x"])
        slowest_s = 0.0
        for i in range(1000):
            before = now()
            await sender.publish("x", b"%d" % i)
            slowest_s = max(slowest_s, now() - before)
        assert 1.4 < slowest_s < 4.6
        assert await payloads(receiver) == numbers(1000)


async def test_resets_break_and_let_connect_at_once() -> None:
    """After a reset the link is as good as before."""
    transport = SimulatedBroker().transport("a", LinkProfile(latency_s=0.01, resets_every_s=20.0))
    for _ in range(50):
        with pytest.raises(TransportError, match="reset"):
            async with transport.connect() as connection:
                await anext(connection.messages())
    assert 600.0 < now() < 1500.0


async def test_cancelled_publish_leaves_the_connection_usable() -> None:
    """Who stops waiting for an acknowledgement leaves the message on its way, and the link intact."""
    broker = SimulatedBroker()
    async with broker.transport("b").connect() as receiver, broker.transport("a", SLOW).connect() as sender:
        await receiver.subscribe(["x"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await sender.publish("x", b"first")
        await sender.publish("x", b"second")
        assert await payloads(receiver) == [b"first", b"second"]


def test_program_in_which_nothing_will_ever_happen_is_noticed() -> None:
    """The simulated broker sets no timer of its own: waiting for a message that nobody sends is a hung protocol."""

    async def wait_for_ever() -> None:
        async with SimulatedBroker().transport("a", SLOW).connect() as connection:
            await anext(connection.messages())

    with pytest.raises(InvalidState, match="hung"):
        run_in_virtual_time(wait_for_ever())


def test_thousands_of_clients_fit() -> None:
    """Two thousand connected devices with links of their own answer one message each."""

    async def device(broker: SimulatedBroker, name: str) -> None:
        async with broker.transport(name).connect(will=Will(f"from/{name}/status", b"off")) as connection:
            await connection.subscribe([f"to/{name}/assignment"])
            await connection.publish(f"from/{name}/check-in", b"here")
            await anext(connection.messages())

    async def fleet() -> None:
        broker = SimulatedBroker(faults=Faults(link=LinkProfile(latency_s=0.05, jitter_s=0.05)))
        async with broker.transport("aggregator").connect() as aggregator, asyncio.TaskGroup() as tasks:
            await aggregator.subscribe(["from/+/check-in"])
            for i in range(2_000):
                tasks.create_task(device(broker, f"d{i}"))
            messages = aggregator.messages()
            for _ in range(2_000):
                name = (await anext(messages)).topic.split("/")[1]
                await aggregator.publish(f"to/{name}/assignment", b"work", qos=0)

    run_in_virtual_time(fleet())  # without asyncio's debug mode, which would make it four times slower
