"""The simulated broker and a real Mosquitto, side by side: what both do wrong, they do wrong alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.config import BrokerSettings
from broker.link import LinkProfile
from broker.mqtt import MqttTransport
from broker.server.faulty_link import faulty_link
from broker.server.mosquitto import running_mosquitto
from broker.simulated import Faults, SimulatedBroker
from broker.transport import Connection, Transport
from shared.errors import TransportError
from simulator.virtual_time import run_in_virtual_time
from tests.broker.contract import next_message, nothing_more
from tests.broker.listening import numbers, payloads

OUR_CONFIGURATION = Path(__file__).parents[2] / "mosquitto.conf"
IN_FLIGHT = 20
"""`max_inflight_messages` of our configuration and of Mosquitto itself: sent, and not counted as queued."""

pytestmark = pytest.mark.mosquitto


@asynccontextmanager
async def _mosquitto(folder: Path, *, max_queued_messages: int) -> AsyncIterator[tuple[str, int]]:
    """Run one with a queue of this length; yields its host and port."""
    lines = OUR_CONFIGURATION.read_text().splitlines()
    queue = f"max_queued_messages {max_queued_messages}"
    configuration = folder / "mosquitto.conf"
    configuration.write_text("\n".join(queue if x.startswith("max_queued_messages") else x for x in lines))
    assert queue in configuration.read_text()
    async with running_mosquitto(configuration=configuration) as running:
        settings = BrokerSettings(url=running.url)
        yield settings.host, settings.port


def _client(host: str, port: int, name: str) -> MqttTransport:
    return MqttTransport(BrokerSettings(url=f"mqtt://{host}:{port}"), name)


async def _publish(transport: Transport, n: int) -> None:
    """Publish 0 … n-1 at QoS 1; returns when all are acknowledged."""
    async with transport.connect() as sender:
        for i in range(n):
            await sender.publish("x", b"%d" % i)


async def _take(connection: Connection, n: int) -> list[bytes]:
    """Return the next n payloads, and check that there are no more."""
    messages = connection.messages()
    got = [(await next_message(messages)).payload for _ in range(n)]
    await nothing_more(connection, messages, "marker")
    return got


def test_full_queue_is_alike(tmp_path: Path) -> None:
    """300 to a client that takes none: 300 acknowledged, what is in flight and queued arrives, and 180 are gone."""

    async def real() -> list[bytes]:
        async with (
            _mosquitto(tmp_path, max_queued_messages=100) as (host, port),
            faulty_link(host, port) as link,
            _client("127.0.0.1", link.port, "slow").connect() as receiver,
        ):
            await receiver.subscribe(["x"])
            link.stall()
            await _publish(_client(host, port, "sender"), 300)
            link.resume()
            return await _take(receiver, IN_FLIGHT + 100)

    async def simulated() -> list[bytes]:
        broker = SimulatedBroker(faults=Faults(max_queued_messages=IN_FLIGHT + 100))
        async with broker.transport("slow", LinkProfile(latency_s=1.0)).connect() as receiver:
            await receiver.subscribe(["x"])
            await _publish(broker.transport("sender"), 300)
            return await payloads(receiver)

    assert asyncio.run(real()) == run_in_virtual_time(simulated()) == numbers(IN_FLIGHT + 100)


async def _retain(transport: Transport, n: int) -> None:
    async with transport.connect() as publisher:
        for i in range(n):
            await publisher.publish(f"model/{i}", b"%d" % i, retained=True)


def test_truncated_wildcard_is_alike(tmp_path: Path) -> None:
    """1500 retained, one wildcard at QoS 1: 1020 arrive on both. At QoS 0 all 1500 do."""

    async def n_found(publisher: Transport, reader: Transport) -> list[int]:
        await _retain(publisher, 1500)
        found = []
        for qos, n in ((1, IN_FLIGHT + 1000), (0, 1500)):
            async with reader.connect() as connection:
                await connection.subscribe(["model/+"], qos=qos)
                found.append(len(set(await _take(connection, n))))
        return found

    async def real() -> list[int]:
        async with _mosquitto(tmp_path, max_queued_messages=1000) as (host, port):
            return await n_found(_client(host, port, "publisher"), _client(host, port, "reader"))

    async def simulated() -> list[int]:
        broker = SimulatedBroker(faults=Faults(wildcard_retained=IN_FLIGHT + 1000))
        return await n_found(broker.transport("publisher"), broker.transport("reader"))

    assert asyncio.run(real()) == run_in_virtual_time(simulated()) == [1020, 1500]


def test_oversize_is_alike(tmp_path: Path) -> None:
    """Above `max_packet_size` the connection is gone and nothing is retained, where a client was not told the limit."""

    async def real() -> list[str]:
        async with _mosquitto(tmp_path, max_queued_messages=1000) as (host, port):
            return await _oversize(MqttTransport(BrokerSettings(url=f"mqtt://{host}:{port}", protocol=3), "unaware"))

    async def simulated() -> list[str]:
        return await _oversize(SimulatedBroker(faults=Faults(cut_above_bytes=1 << 20)).transport("unaware"))

    assert asyncio.run(real()) == run_in_virtual_time(simulated()) == ["lost", "nothing"]


async def _oversize(transport: Transport) -> list[str]:
    seen = []
    try:
        async with transport.connect() as connection:
            await connection.publish("x", bytes((1 << 20) + 1), retained=True)
    except TransportError:
        seen.append("lost")
    async with transport.connect() as connection:
        await connection.subscribe(["x"])
        await nothing_more(connection, connection.messages(), "marker")
        seen.append("nothing")
    return seen
