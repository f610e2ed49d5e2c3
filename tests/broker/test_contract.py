"""Runs `contract.py` on every broker that this machine has."""

import pytest

from broker.simulated import SimulatedBroker
from broker.transport import Transport
from tests.broker.contract import *  # noqa: F403


class SimulatedRig:
    """A simulated broker of the test's own."""

    root = "t"

    def __init__(self) -> None:
        self._broker = SimulatedBroker()

    async def transport(self, name: str) -> Transport:
        """See `Rig`."""
        return self._broker.transport(name)

    async def cut(self, name: str) -> None:
        """See `Rig`."""
        self._broker.cut(name, for_good=True)


@pytest.fixture
def rig() -> SimulatedRig:
    """A broker and its transports."""
    return SimulatedRig()
