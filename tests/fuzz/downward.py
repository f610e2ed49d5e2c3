"""A device at work, and what anybody may publish to it on a broker without access rules.

The device is the real one, from its session to its outbox; only its transport is made up, which delivers what is drawn
and remembers what is asked for. Between hostile payloads honest ones let it fetch, train and report.

Not here: how a message is spoilt (`mutation.py`), running it (`running.py`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import numpy as np

from broker.inbox import Inbox
from broker.transport import Connection, Message, Will
from edge_client.config import EdgeSettings
from edge_client.eligibility import Conditions
from edge_client.service import EdgeClient
from shared.errors import InvalidState, TransportError
from shared.messages import CheckIn
from shared.task import Arrays, Client, ClientId, Evaluated, Initial, Trained, Work
from shared.topics import CheckInTopic, Topics
from shared.wire import decode
from tests.fuzz.hostile_aggregator import N_PARAMS, HostileAggregator
from tests.fuzz.world import MeteredBlocking, Payload

__all__ = ["DeviceWorld"]

DEVICE = "d0"
PATIENCE_S = 24 * 3600.0
"""A device that stays away for longer is switched off and on again."""
REBOOTS = 0.0003


class DeviceWorld:
    """Everything of a device that a message can reach.

    Args:
        folder: of its state.
        rng: of the payloads, the delays and the passing of time.
    """

    name = "device"

    def __init__(self, folder: Path, rng: Random) -> None:
        self._rng = rng
        self._settings = EdgeSettings(folder=folder, until_finished=False)
        self.counts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        """What the device has published, by kind: it was at work."""
        self.blocking = MeteredBlocking(rng)
        self._topics = Topics(self._settings.fleet)
        self.peer = HostileAggregator(rng, self._topics, DEVICE)
        self.inbox: Inbox | None = None
        self.is_connected = asyncio.Event()
        self._task = _Unmoved()
        self._life = self._switched_on()

    def _switched_on(self) -> asyncio.Task[None]:
        client = EdgeClient(
            self._settings,
            self._task,
            Client(id=ClientId(DEVICE)),
            _Way(self),
            run_blocking=self.blocking,
            rng=self._rng,
            clock=asyncio.get_running_loop().time,
            look=Conditions,
        )
        return asyncio.create_task(client.run(), name="device")

    async def close(self) -> None:
        """Pull the plug."""
        self._life.cancel()
        await asyncio.wait([self._life])
        if not self._life.cancelled():
            self._life.result()

    # a payload

    def draw(self) -> Payload:
        return self.peer.draw()

    async def take(self, payload: Payload) -> None:
        if self._rng.random() < REBOOTS:
            await self._reboot()
        if not self.is_connected.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self.is_connected.wait()
        if not self.is_connected.is_set():
            await self._reboot()
        if self.inbox is not None:
            self.inbox.put(Message(payload.topic, payload.data, payload.retained))
        chance = self._rng.random()
        await asyncio.sleep(self._rng.uniform(10.0, 200.0) if chance > 0.999 else self._rng.expovariate(20.0))

    def check(self) -> None:
        if self._life.done():
            self._life.result()
            raise InvalidState("the device has ended")

    def check_books(self) -> None:
        return

    async def _reboot(self) -> None:
        await self.close()
        self._life = self._switched_on()
        await asyncio.sleep(1.0)


class _Unmoved:
    """A task that learns nothing, whatever model it is given."""

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return Initial({"w": np.zeros(N_PARAMS, np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        work.progress(1, 1)
        return Trained(parameters=parameters, num_examples=7, n_steps=1, state={"count": np.array(1)})

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`."""
        return Evaluated(num_examples=4, metrics={"loss": 0.5})


class _Way:
    """A transport to nowhere."""

    def __init__(self, world: DeviceWorld) -> None:
        self._world = world

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        world = self._world
        inbox = world.inbox = Inbox()
        world.peer.wanted.clear()
        world.is_connected.set()
        try:
            yield _Connection(world, inbox)
        finally:
            world.is_connected.clear()
            world.inbox = None
            inbox.end(TransportError("left"))


class _Connection:
    max_payload_bytes = None

    def __init__(self, world: DeviceWorld, inbox: Inbox) -> None:
        self._world, self._inbox = world, inbox

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        await asyncio.sleep(0.01)
        self._world.sent[topic.split("/")[5]] += 1
        if isinstance(self._world._topics.parse(topic), CheckInTopic):
            self._world.peer.hears([held.lease for held in decode(CheckIn, payload).holds])

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        await asyncio.sleep(0.01)
        self._world.peer.wanted.update(
            dict.fromkeys(topic for topic in topics if "/index/" in topic or "/model/" in topic)
        )

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._world.peer.wanted.pop(topic, None)

    def messages(self) -> AsyncIterator[Message]:
        return self._inbox
