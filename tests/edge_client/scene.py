"""One device and a hand-written aggregator on the simulated broker."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from broker.faults import Faults
from broker.link import PERFECT, LinkProfile
from broker.simulated import SimulatedBroker
from broker.transport import Connection, Message, Transport, Will
from edge_client.config import EdgeSettings
from edge_client.eligibility import Conditions
from edge_client.service import EdgeClient
from shared.blocking import Lane
from shared.messages import DeviceStatus
from shared.task import Client, ClientId, Task
from shared.topics import StatusTopic
from shared.wire import decode_json
from simulator.inline_blocking import DelayRange, InlineBlocking
from tests.edge_client.fake_aggregator import FakeAggregator
from tests.edge_client.tasks import AddOne

__all__ = ["DEVICE", "Scene"]

DEVICE = "pi"


class Watched:
    """A transport that remembers what its connections were asked for and given.

    Args:
        transport: does the work.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.received: list[str] = []
        self.subscribed: list[Sequence[str]] = []
        self.unsubscribed: list[str] = []

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        async with self._transport.connect(will=will) as connection:
            yield _WatchedConnection(connection, self)


class _WatchedConnection:
    def __init__(self, connection: Connection, watched: Watched) -> None:
        self._connection, self._watched = connection, watched

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        await self._connection.publish(topic, payload, qos=qos, retained=retained)

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        self._watched.subscribed.append(topics)
        await self._connection.subscribe(topics, qos=qos)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        self._watched.unsubscribed += topics
        await self._connection.unsubscribe(topics)

    async def messages(self) -> AsyncIterator[Message]:
        async for message in self._connection.messages():
            self._watched.received.append(message.topic)
            yield message

    @property
    def max_payload_bytes(self) -> int | None:
        return self._connection.max_payload_bytes


class Scene:
    """To be used as a context; leaving it ends everybody.

    Args:
        folder: of the device.
        task: of both sides.
        faults: of the broker.
        link: of the device.
        delays: how long its work takes, by lane.
        knobs: of the aggregator.
    """

    def __init__(
        self,
        folder: Path,
        task: Task | None = None,
        *,
        faults: Faults | None = None,
        link: LinkProfile = PERFECT,
        delays: Mapping[Lane, DelayRange] | None = None,
        **knobs: Any,
    ) -> None:
        self.broker = SimulatedBroker(seed=1, faults=faults)
        self.task = task or AddOne()
        self.aggregator = FakeAggregator(self.broker, self.task, **knobs)
        self.settings = EdgeSettings(folder=folder)
        self._folder, self._delays = folder, delays
        self.way = Watched(self.broker.transport(DEVICE, link))
        self.conditions = Conditions()
        """What the device reads when it looks at itself."""
        self._n_lives = 0
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self.client: EdgeClient
        self.device: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    async def start(self, *orders: int, **changes: Any) -> None:
        """Start the aggregator, which will give these leases, then the device."""
        await self.start_aggregator()
        self.aggregator.orders = [self.aggregator.order(number, **changes) for number in orders]
        self.start_device()

    async def start_aggregator(self) -> None:
        """Start the aggregator; return once it has published."""
        self._tasks.append(self._group.create_task(self.aggregator.serve(), name="aggregator"))
        await self.until(lambda: any(topic.endswith("/round") for topic in self.broker.retained))

    async def restart_aggregator(self) -> None:
        """Start the aggregator again, a restart later."""
        self.aggregator.epoch += 1
        await self.start_aggregator()

    def slow_down(self, link: LinkProfile) -> None:
        """Give the next life of the device another way to the broker."""
        self.way = Watched(self.broker.transport(DEVICE, link))

    async def cut_every(self, seconds: float) -> None:
        """Cut the device's link again and again, so long after it was made."""
        while True:
            await self.until(lambda: DEVICE in self.broker.connected)
            await asyncio.sleep(seconds)
            self.broker.cut(DEVICE)

    def start_device(self, *, task: Task | None = None, folder: Path | None = None, **changes: Any) -> None:
        """Start the device, for the first time or again."""
        self._n_lives += 1
        self.client = EdgeClient(
            self.settings.model_copy(update={"folder": folder or self._folder, **changes}),
            task or self.task,
            Client(id=ClientId(DEVICE)),
            self.way,
            run_blocking=InlineBlocking(Random(self._n_lives), self._delays),
            rng=Random(self._n_lives),
            clock=asyncio.get_running_loop().time,
            look=lambda: self.conditions,
        )
        self.device = self._group.create_task(self.client.run(), name="device")
        self._tasks.append(self.device)

    async def kill_device(self) -> None:
        """End it without a goodbye."""
        self.broker.cut(DEVICE)
        self.device.cancel()
        await asyncio.wait([self.device])

    async def until(self, condition: Callable[[], object], *, within_s: float = 10_000) -> None:
        """Let time pass until this holds."""
        step_s = 0.05
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(step_s)
                step_s = min(1.0, 1.02 * step_s)

    async def until_final(self, *orders: int, within_s: float = 10_000) -> None:
        """Let time pass until these leases are final, and the device has none in its outbox."""
        names = {f"{number:032x}" for number in orders}
        await self.until(lambda: names <= self.aggregator.finals.keys() and not self.outbox(), within_s=within_s)

    @property
    def status(self) -> DeviceStatus:
        """What the device, or its will, said last."""
        payload = self.broker.retained.get(self.aggregator.topics.build(StatusTopic(DEVICE)))
        return decode_json(DeviceStatus, payload) if payload else DeviceStatus(online=False, boot="", connection=0)

    def outbox(self) -> list[str]:
        """Leases in the device's outbox."""
        folder = self._folder / self.settings.fleet / DEVICE / "outbox"
        return sorted(path.stem for path in folder.glob("*.report"))
