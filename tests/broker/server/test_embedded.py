"""What the shim around amqtt rights, beyond the contract."""

import asyncio
import uuid

import pytest

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.embedded_process import running_embedded
from broker.transport import Message, Will
from shared.errors import CredentialsRefused, TransportError
from tests.broker.contract import next_message, nothing_more


def a_client(url: str, name: str | None = None, username: str | None = None) -> MqttTransport:
    """A transport; its id is new unless it is named."""
    return MqttTransport(BrokerSettings(url=url, protocol=3, username=username), name or uuid.uuid4().hex[:20])


async def test_stranger_receives_nothing_it_did_not_subscribe_to(embedded_url: str) -> None:
    """A client that connects gets no retained message of other clients' filters."""
    root = uuid.uuid4().hex
    async with a_client(embedded_url).connect() as owner:
        await owner.publish(f"{root}/secret", b"secret", retained=True)
        await owner.subscribe([f"{root}/secret"])
        async with a_client(embedded_url).connect() as stranger:
            await nothing_more(stranger, stranger.messages(), f"{root}/marker")


async def test_subscribe_during_broadcasts_loses_nothing(embedded_url: str) -> None:
    """While filters come and go every message reaches who subscribed before."""
    root = uuid.uuid4().hex

    async def come_and_go() -> None:
        async with a_client(embedded_url).connect() as other:
            i = 0
            while True:
                i += 1
                await other.subscribe([f"{root}/{i}"])
                await other.unsubscribe([f"{root}/{i}"])

    async with a_client(embedded_url).connect() as sender, a_client(embedded_url).connect() as receiver:
        restless = asyncio.create_task(come_and_go())
        await receiver.subscribe([f"{root}/late/+"])
        for i in range(200):
            await sender.publish(f"{root}/late/{i}", b"")
        messages = receiver.messages()
        got = [(await next_message(messages)).topic for _ in range(200)]
        assert got == [f"{root}/late/{i}" for i in range(200)]
        restless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restless


async def test_packet_over_the_limit_ends_the_connection() -> None:
    """It is not read, and the others' connections stay."""
    async with running_embedded(max_packet_bytes=10_000) as running, a_client(running.url).connect() as other:
        async with a_client(running.url).connect() as connection:
            await connection.publish("x", bytes(9_000))
            with pytest.raises(TransportError):
                await connection.publish("x", bytes(11_000))
        await other.publish("x", b"")


async def test_client_with_mqtt_5_is_told_whatever_it_says_else(embedded_url: str) -> None:
    """The default client, with a will and a user name in its CONNECT, comes again with 3.1.1."""
    name = f"pi-{uuid.uuid4().hex[:8]}"
    transport = MqttTransport(BrokerSettings(url=embedded_url, username=name), name)
    async with transport.connect(will=Will("fl/v1/x/from/y/status", b"{}")) as connection:
        await connection.publish("fl/v1/x/from/y/status", b"")


async def test_name_has_to_be_the_client_id(embedded_url: str) -> None:
    """Nobody can be another device under its own name."""
    name = f"pi-{uuid.uuid4().hex[:8]}"
    async with a_client(embedded_url, name, name).connect():
        pass
    with pytest.raises(CredentialsRefused):
        async with a_client(embedded_url, name, "pi-other").connect():
            pass


async def test_named_device_is_kept_to_its_own_topics(embedded_url: str) -> None:
    """What it publishes elsewhere reaches nobody, and it receives what is meant for it and for all."""
    name, fleet = f"pi-{uuid.uuid4().hex[:8]}", f"f-{uuid.uuid4().hex[:8]}"
    root = f"fl/v1/{fleet}"
    async with a_client(embedded_url).connect() as server:
        await server.subscribe([f"{root}/#"])
        await server.publish(f"{root}/to/pi-2/receipt", b"not for it", retained=True)
        await server.publish(f"{root}/fleet", b"for all", retained=True)
        seen = server.messages()
        await next_message(seen)
        await next_message(seen)
        async with a_client(embedded_url, name, name).connect() as device:
            await device.publish(f"{root}/from/pi-2/check-in", b"forged")
            await device.publish(f"{root}/run/r/round", b"forged", retained=True)
            await device.publish(f"{root}/from/{name}/check-in", b"true")
            assert await next_message(seen) == Message(f"{root}/from/{name}/check-in", b"true")
            await device.subscribe([f"{root}/#"])
            assert (await next_message(device.messages())).payload == b"for all"


async def test_take_over_sends_the_older_will(embedded_url: str) -> None:
    """Whoever is pushed out by its own id has not said goodbye."""
    root = uuid.uuid4().hex
    async with a_client(embedded_url).connect() as watcher:
        await watcher.subscribe([f"{root}/status"])
        device = a_client(embedded_url)
        async with device.connect(will=Will(f"{root}/status", b"gone")), device.connect():
            assert (await next_message(watcher.messages())).payload == b"gone"


async def test_it_ends_when_its_starter_is_gone() -> None:
    """It reads the end of its standard input, which comes even when whoever started it is killed."""
    async with running_embedded() as running:
        assert running.process.stdin is not None
        running.process.stdin.close()
        async with asyncio.timeout(5.0):
            assert await running.wait() == 0
