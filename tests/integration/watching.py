"""A broker in memory whose clients are watched: what each published, what was acknowledged, what it received."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from broker.link import LinkProfile
from broker.simulated import SimulatedBroker
from broker.transport import Connection, Message, Transport, Will

__all__ = ["Traffic", "WatchedBroker", "unwatched_loop"]


@dataclass
class Traffic:
    """What one client has sent and received, over all its lives."""

    published: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    outstanding: dict[str, int] = field(default_factory=dict)  # published on this connection: its size
    n_connections: int = 0
    on_publish: Callable[[str, bytes], None] = lambda topic, payload: None
    on_acknowledged: Callable[[str], None] = lambda topic: None
    on_received: Callable[[str], None] = lambda topic: None

    def sent(self, kind: str) -> list[str]:
        """Topics of one kind that were published: report, chunk, check-in."""
        return [topic for topic in self.published if topic.split("/")[5:6] == [kind]]

    def again(self, kind: str) -> int:
        """How many messages of a kind were sent more than once."""
        return sum(n - 1 for n in Counter(self.sent(kind)).values())

    def pieces(self) -> list[str]:
        """Topics of chunks and index pieces that were received."""
        return [topic for topic in self.received if {"index", "model"} & {*topic.split("/")[5:6]}]


class WatchedBroker(SimulatedBroker):
    """See `SimulatedBroker`; exchange a fleet's for it before anybody is added."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.traffic: defaultdict[str, Traffic] = defaultdict(Traffic)

    def transport(self, client_id: str, link: LinkProfile | None = None) -> Transport:
        """See `SimulatedBroker`."""
        return _Watched(super().transport(client_id, link), self.traffic[client_id])


class _Watched:
    def __init__(self, transport: Transport, traffic: Traffic) -> None:
        self._transport, self._traffic = transport, traffic

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        async with self._transport.connect(will=will) as connection:
            self._traffic.n_connections += 1
            self._traffic.outstanding = {}
            yield _WatchedConnection(connection, self._traffic)


class _WatchedConnection:
    def __init__(self, connection: Connection, traffic: Traffic) -> None:
        self._connection, self._traffic = connection, traffic
        self.subscribe = connection.subscribe
        self.unsubscribe = connection.unsubscribe

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        outstanding = self._traffic.outstanding
        self._traffic.published.append(topic)
        outstanding[topic] = len(payload)
        self._traffic.on_publish(topic, payload)
        await self._connection.publish(topic, payload, qos=qos, retained=retained)
        outstanding.pop(topic, None)  # of two with the same topic only the first is counted
        self._traffic.acknowledged.append(topic)
        self._traffic.on_acknowledged(topic)

    async def messages(self) -> AsyncIterator[Message]:
        async for message in self._connection.messages():
            self._traffic.received.append(message.topic)
            self._traffic.on_received(message.topic)
            yield message

    @property
    def max_payload_bytes(self) -> int | None:
        return self._connection.max_payload_bytes


def unwatched_loop() -> None:
    """Turn asyncio's debug mode off, in a test of many devices: it takes longer than what it watches."""
    asyncio.get_running_loop().set_debug(False)
