"""Runs `contract.py` on every broker that this machine has; real ones through a link that can be cut."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Literal

import pytest

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.faulty_link import FaultyLink, faulty_link
from broker.simulated import Faults, SimulatedBroker
from broker.transport import Transport
from tests.broker.contract import *  # noqa: F403
from tests.broker.contract import Rig


class SimulatedRig:
    """A simulated broker of the test's own, with the packet limit of mosquitto.conf."""

    root = "t"

    def __init__(self) -> None:
        self._broker = SimulatedBroker(faults=Faults(max_payload_bytes=1 << 20))

    async def transport(self, name: str) -> Transport:
        """See `Rig`."""
        return self._broker.transport(name)

    async def cut(self, name: str) -> None:
        """See `Rig`."""
        self._broker.cut(name, for_good=True)


class RealRig:
    """A broker of its own process, shared by many tests, and a link of its own for each transport."""

    def __init__(self, url: str, protocol: Literal[5, 3], links: AsyncExitStack) -> None:
        self.root = f"t/{uuid.uuid4().hex}"
        self._broker = BrokerSettings(url=url)
        self._protocol = protocol
        self._links = links
        self._link_of: dict[str, FaultyLink] = {}

    async def transport(self, name: str) -> Transport:
        """See `Rig`."""
        link = await self._links.enter_async_context(faulty_link(self._broker.host, self._broker.port))
        self._link_of[name] = link
        settings = BrokerSettings(url=link.url, protocol=self._protocol)
        return MqttTransport(settings, f"{self.root.removeprefix('t/')}-{name}")

    async def cut(self, name: str) -> None:
        """See `Rig`."""
        await self._link_of[name].down()


@pytest.fixture(
    params=[
        "simulated",
        "embedded",
        pytest.param("mosquitto-5", marks=pytest.mark.mosquitto),
        pytest.param("mosquitto-3", marks=pytest.mark.mosquitto),
    ]
)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A broker and its transports."""
    if request.param == "simulated":
        yield SimulatedRig()
        return
    kind, _, protocol = request.param.partition("-")
    url: str = request.getfixturevalue(f"{kind}_url")
    async with AsyncExitStack() as links:
        yield RealRig(url, 5 if protocol == "5" else 3, links)
