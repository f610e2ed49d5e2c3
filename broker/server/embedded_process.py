"""Runs the embedded broker (`embedded.py`) in a process of its own, where amqtt is installed."""

import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.server.port_owner import chosen_port
from broker.server.process import RunningBroker, supervised
from shared.errors import ConfigError

__all__ = ["has_embedded", "running_embedded"]

MAX_PACKET_BYTES = 1 << 20
"""As in mosquitto.conf."""


def has_embedded() -> bool:
    """Say whether the extra that brings the embedded broker is installed."""
    return importlib.util.find_spec("amqtt") is not None


@asynccontextmanager
async def running_embedded(
    *, port: int = 0, host: str = "127.0.0.1", max_packet_bytes: int = MAX_PACKET_BYTES
) -> AsyncIterator[RunningBroker]:
    """Run the embedded broker until the context is left.

    Args:
        port: 0: any that is free.
        host: address to listen on.
        max_packet_bytes: a client that sends more is disconnected.

    Raises:
        ConfigError: it is not installed, the port is taken, or it does not come up.
    """
    if not has_embedded():
        raise ConfigError("the embedded broker is not installed", hint="pip install 'fedmq[embedded]'")
    chosen = chosen_port(host, port)
    command = [sys.executable, "-m", "broker.server.embedded", host, str(chosen), str(max_packet_bytes)]
    root = Path(__file__).parents[2]  # where `broker` is found, installed or not
    async with supervised("embedded", command, root, host, chosen) as running:
        yield running
