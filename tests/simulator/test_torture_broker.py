"""The broker of a torture comes back where it was, and has forgotten everything."""

from pathlib import Path
from random import Random

import pytest

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.mosquitto import find_mosquitto
from shared.errors import InvalidState
from simulator.torture_broker import KillableBroker, killable_broker

pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="there is no Mosquitto on this machine"),
]


async def _retained(broker: KillableBroker) -> bool:
    """Whether the broker still has what was retained."""
    async with MqttTransport(BrokerSettings(url=broker.url), "reader").connect() as connection:
        await connection.subscribe(["kept"])
        await connection.publish("kept", b"live")
        async for message in connection.messages():
            return message.payload == b"retained"
    raise AssertionError("the link ended")


async def test_killed_broker_comes_back_on_its_port_without_a_memory(tmp_path: Path) -> None:
    """As the worst case that was measured: retained messages are gone with a SIGKILL."""
    async with killable_broker(tmp_path, Random(1)) as broker:
        url = broker.url
        async with MqttTransport(BrokerSettings(url=url), "writer").connect() as connection:
            await connection.publish("kept", b"retained", retained=True)
        assert await _retained(broker)
        await broker.kill()
        with pytest.raises(InvalidState):
            await broker.kill()
        await broker.ensure()
        await broker.ensure()
        assert broker.url == url
        assert not await _retained(broker)
