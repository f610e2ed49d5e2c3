"""What both ends of the bare pipe share: topics, chunks as large as ours, a window as wide as ours, Nagle off.

Not here: who sends when (`server.py`, `clients.py`).
"""

import asyncio
import math
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import aiomqtt

from aggregator.config import TransferSettings
from bench.work import MODEL_BYTES

__all__ = ["DOWN", "READY", "STOP", "UP", "connected", "pieces", "send"]

DOWN: Final = "pipe/down"
"""The model, from the server to everybody."""
UP: Final = "pipe/up"
"""The updates, from everybody to the server."""
READY: Final = "pipe/ready"
"""Below it, retained: which client has subscribed, however much later the server does."""
STOP: Final = "pipe/stop"
"""There are no more rounds."""
WINDOW: Final = 16
"""Chunks without their PUBACK, as many as a device of ours has out at most."""


CONNECT_S: Final = 10.0


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[aiomqtt.Client]:
    """Connect to the broker on this machine, as our transport does."""
    async with aiomqtt.Client(
        "127.0.0.1",
        port,
        protocol=aiomqtt.ProtocolVersion.V5,
        timeout=CONNECT_S,
        max_inflight_messages=WINDOW,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    ) as client:
        client.pending_calls_threshold = WINDOW  # it warns of more than ten calls at a time
        yield client


def pieces() -> list[bytes]:
    """Return the payloads of a model: all of our default size but the last. What is in them does not matter."""
    model_bytes, chunk = int(os.environ[MODEL_BYTES]), bytes(TransferSettings().chunk_bytes)
    full, rest = divmod(model_bytes, len(chunk))
    return [chunk] * full + [chunk[:rest]] * bool(rest)


async def send(client: aiomqtt.Client, topic: str, payloads: list[bytes]) -> None:
    """Publish all payloads with QoS 1, a window of them at a time; return when all are acknowledged."""
    waiting: Iterator[bytes] = iter(payloads)

    async def lane() -> None:
        for payload in waiting:
            await client.publish(topic, payload, qos=1, timeout=math.inf)

    async with asyncio.TaskGroup() as group:
        for _ in range(WINDOW):
            group.create_task(lane())
