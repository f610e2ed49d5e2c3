"""Many real devices against the real aggregator, in one event loop, on a broker in memory.

Nothing of the services is replaced but what surrounds them: the broker is `SimulatedBroker`, threads are
`InlineBlocking`, and the clock is the loop's own, which jumps when it is a `VirtualTimeLoop`. Each service can be
killed as by SIGKILL: its connection breaks without a goodbye, work that was under way is never heard of, and what it
had on disk is all that its next life finds.

Not here: which faults happen when; that is said by whoever holds the fleet.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from aggregator.config import Settings
from aggregator.plug_ins import load_plug_ins
from aggregator.service import Aggregator, RunResult
from broker.faults import Faults
from broker.link import LinkProfile
from broker.simulated import SimulatedBroker
from broker.transport import Transport
from edge_client.config import EdgeSettings
from edge_client.eligibility import Conditions
from edge_client.files import Files, OnDisk
from edge_client.service import EdgeClient
from edge_client.training import CarryOut, carry_out
from shared.blocking import Lane
from shared.errors import InvalidState
from shared.messages import AggregatorStatus, DeviceStatus
from shared.task import Client, ClientId, Task
from shared.topics import AggregatorStatusTopic, StatusTopic, Topics
from shared.wire import decode_json
from simulator.disk_image import Image
from simulator.inline_blocking import DelayRange, InlineBlocking
from simulator.lossy_disk import Death, LossyDisk, Machine
from simulator.memory_files import InMemory
from simulator.runs.body import Body
from simulator.runs.pace import Pace
from simulator.runs.paced_blocking import PacedBlocking
from simulator.tapping import TappedTransport

__all__ = ["AGGREGATOR", "Fleet"]

AGGREGATOR = "aggregator"
"""Its client id on the simulated broker."""
WALL_START_S = 1_800_000_000.0
"""Unix time at the loop's zero: a run must not depend on the day on which it is simulated."""
GOODBYE_S = 5.0
"""Seconds that a device which is switched off has to say goodbye."""
LOOK_EVERY_S = 0.05
"""How often `until` asks its question, in seconds."""


@dataclass(slots=True)
class _Life:
    """One life of a service: from its start to its end or its death."""

    task: "asyncio.Task[Any]"
    blocking: InlineBlocking
    ask_to_end: Callable[[], None] | None = None

    def stop(self) -> None:
        """Nothing more comes of it."""
        self.blocking.close()
        self.task.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Device:
    """What stays of a device while it is switched off."""

    client: Client
    task: Task
    transport: Transport
    files: Files
    delays: Mapping[Lane, DelayRange]
    body: Body | None
    carry_out: CarryOut


class Fleet:
    """A fleet in one loop. To be used as a context; leaving it kills whoever is still alive.

    Args:
        settings: the aggregator's; its `output.folder` is where the run lies.
        task: what is learned.
        folder: where devices keep their state, each in a folder of its own; in memory it is but its name.
        seed: of the broker, of every link, delay and device.
        faults: how the broker misbehaves.
        edge: the devices' settings; fleet, folder and id are set here.
        disk: what every service lives on; None: one that loses nothing.
        in_memory: whether devices keep their state in memory: thousands cost no descriptors, and nothing is to be lost.
        delays: how long everybody's work takes, by lane, where nothing else is said; None: as `inline_blocking.QUICK`
            says.
        late: probability that a piece of blocking work takes much longer (`InlineBlocking`).
        show: is shown what each service publishes: its name, topic and payload.
        show_death: is shown who has died, and what is left on the disk.
        beside: where code that the settings name is looked for first.
        on_error: is told of a service that ends with an error; returns whether the fleet goes on without it.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task,
        folder: Path,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        edge: EdgeSettings | None = None,
        disk: LossyDisk | None = None,
        in_memory: bool = False,
        delays: Mapping[Lane, DelayRange] | None = None,
        late: float = 0.0,
        show: Callable[[str, str, bytes], None] | None = None,
        show_death: Callable[[str, Image], None] | None = None,
        beside: Path = Path(),
        on_error: Callable[[str, Exception], bool] = lambda name, error: False,
    ) -> None:
        self.settings, self._beside = settings, beside
        self.broker = SimulatedBroker(seed=seed, faults=faults)
        self.topics = Topics(settings.fleet)
        self._task = task
        self._edge = (edge or EdgeSettings()).model_copy(update={"fleet": settings.fleet, "folder": folder})
        self._seed, self._disk, self._late, self._show = seed, disk, late, show
        self._delays = delays or {}
        if in_memory and disk is not None:
            raise InvalidState("what is kept in memory cannot be lost by a disk")
        self._in_memory = in_memory
        self._show_death, self._on_error = show_death, on_error
        self._n_lives = 0
        self._devices: dict[str, _Device] = {}
        self._alive: dict[str, _Life] = {}
        self._group = asyncio.TaskGroup()
        self._result: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.aggregator: Aggregator | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._alive):
            await self._bury(name, None)
        await self._group.__aexit__(kind, error, trace)

    def start_aggregator(self, settings: Settings | None = None, *, task: Task | None = None) -> None:
        """Start the aggregator, for the first time or again.

        Args:
            settings: from now on, in place of the fleet's.
            task: the aggregator's own, in place of the fleet's.
        """
        self.settings = settings or self.settings
        blocking = self._blocking(AGGREGATOR, {})
        loop = asyncio.get_running_loop()
        if self._result.done():
            self._result = loop.create_future()
        rng = Random(f"{self._seed}/{AGGREGATOR}/{self._n_lives}")
        self.aggregator = Aggregator(
            self.settings,
            task or self._task,
            self._transport(AGGREGATOR),
            run_blocking=blocking,
            rng=rng,
            wall=lambda: WALL_START_S + loop.time(),
            instance=f"{rng.getrandbits(64):016x}",
            plug_ins=load_plug_ins(self.settings, self._beside.resolve()),
        )
        self._start(AGGREGATOR, self.aggregator.run, blocking)

    def add(
        self,
        device: str,
        *,
        partition: tuple[int, int] | None = None,
        link: LinkProfile | None = None,
        task: Task | None = None,
        delays: Mapping[Lane, DelayRange] | None = None,
        body: Body | None = None,
        carry_out: CarryOut = carry_out,
        is_on: bool = True,
    ) -> None:
        """Add a device and switch it on.

        Args:
            device: its id.
            partition: handed to the task.
            link: its way to the broker; None: as the broker's faults say.
            task: its own, in place of the fleet's.
            delays: how long its work takes, by lane, in place of the fleet's.
            body: what it is made of; None: nothing in particular, and training takes as long as `delays` say.
            carry_out: as for `EdgeClient`.
            is_on: False: it is switched on by `start`.
        """
        folder = self._edge.state_folder(device)
        self._devices[device] = _Device(
            client=Client(id=ClientId(device), partition=partition),
            task=task or self._task,
            transport=self._transport(device, link),
            files=InMemory(str(folder)) if self._in_memory else OnDisk(folder),
            delays=delays or {},
            body=body,
            carry_out=carry_out,
        )
        if is_on:
            self.start(device)

    def start(self, device: str) -> None:
        """Switch a device on that was killed, or has ended."""
        known = self._devices[device]
        body = known.body
        pace = None if body is None else body.pace()
        blocking = self._blocking(device, known.delays, pace)
        keys = ("device_class", "eligibility", "keeps_state")
        own = {} if body is None else {key: getattr(body, key) for key in keys}
        service = EdgeClient(
            self._edge.model_copy(update={"id": device, **own}),
            known.task if pace is None else pace.task,
            known.client,
            known.transport,
            run_blocking=blocking,
            rng=Random(f"{self._seed}/{device}/{self._n_lives}"),
            clock=asyncio.get_running_loop().time if pace is None else pace.clock,
            look=Conditions if body is None else body.look,
            spec=None if body is None else body.spec,
            line=None if pace is None else pace.line,
            files=known.files,
            carry_out=known.carry_out,
        )
        self._start(device, service.run, blocking, service.stop)

    async def kill(self, name: str, *, power_cut: Random | None = None) -> None:
        """End a service as SIGKILL would, without a goodbye; nothing if it is not running.

        Args:
            name: whose life ends.
            power_cut: what decides what its disk loses; None: nothing.
        """
        if name in self._alive and not self._alive[name].blocking.is_closed:
            machine = self.machine(name)
            await self._bury(name, None if machine is None else machine.image(power_cut))

    async def switch_off(self, device: str) -> None:
        """End a device in good order, or, when it takes longer than its goodbye may, as SIGKILL would."""
        life = self._alive.get(device)
        if life is not None and life.ask_to_end is not None and not life.task.done():
            life.ask_to_end()
            await asyncio.wait([life.task], timeout=GOODBYE_S)
        await self.kill(device)

    def kill_within(self, name: str, death: Death, then: Callable[[], None]) -> None:
        """End a service within a call that it is still to make.

        Args:
            name: whose life ends.
            death: in which call, and how.
            then: called once it is over.
        """
        machine = self.machine(name)
        if machine is None:
            raise InvalidState("a service dies within a call only on a LossyDisk")

        def die(image: Image) -> None:
            self._alive[name].stop()
            self.broker.cut(name)  # before anything else can leave
            burial = self._group.create_task(self._bury(name, image), name=f"burial of {name}")
            burial.add_done_callback(lambda _: then())

        machine.die_within(death, die)

    def machine(self, name: str) -> Machine | None:
        """Return what a service lives on; None: a disk that loses nothing."""
        if self._disk is None:
            return None
        folder = self.settings.output.folder if name == AGGREGATOR else self._edge.state_folder(name)
        return self._disk.machine(name, folder)

    def is_running(self, name: str) -> bool:
        """Whether this service is alive."""
        return name in self._alive and not self._alive[name].task.done()

    async def result(self) -> RunResult:
        """Wait until the aggregator has ended by itself, in whichever of its lives, and return its result."""
        return await asyncio.shield(self._result)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds, looking every 50 ms."""
        while not condition():  # noqa: ASYNC110 - the services know nothing of whoever watches them
            await asyncio.sleep(LOOK_EVERY_S)

    @property
    def status(self) -> AggregatorStatus | None:
        """What the aggregator said of itself last; None before its first word."""
        payload = self.broker.retained.get(self.topics.build(AggregatorStatusTopic()))
        return None if payload is None else decode_json(AggregatorStatus, payload)

    def status_of(self, device: str) -> DeviceStatus | None:
        """What a device, or its will, said last; None before its first word."""
        payload = self.broker.retained.get(self.topics.build(StatusTopic(device)))
        return None if payload is None else decode_json(DeviceStatus, payload)

    def _blocking(self, name: str, delays: Mapping[Lane, DelayRange], pace: Pace | None = None) -> InlineBlocking:
        self._n_lives += 1
        machine, rng = self.machine(name), Random(f"{self._seed}/{name}/{self._n_lives}/delays")
        delays = {**self._delays, **delays}
        if pace is not None:
            return PacedBlocking(rng, delays, pace)
        return InlineBlocking(rng, delays, late=self._late, within=None if machine is None else machine.work)

    def _transport(self, name: str, link: LinkProfile | None = None) -> Transport:
        transport = self.broker.transport(name, link)
        return transport if self._show is None else TappedTransport(transport, partial(self._show, name))

    def _start(
        self,
        name: str,
        run: Callable[[], Coroutine[Any, Any, Any]],
        blocking: InlineBlocking,
        ask_to_end: Callable[[], None] | None = None,
    ) -> None:
        if self.is_running(name):
            raise InvalidState(f"{name} is running already")
        task = self._group.create_task(self._live(name, run, blocking), name=name)
        self._alive[name] = _Life(task, blocking, ask_to_end)

    async def _live(self, name: str, run: Callable[[], Coroutine[Any, Any, Any]], blocking: InlineBlocking) -> None:
        try:
            result = await run()
        except BaseException as error:
            if blocking.is_closed or (isinstance(error, Exception) and self._on_error(name, error)):
                return  # it is dead: nobody hears its last words
            raise
        if name == AGGREGATOR:
            self._result.set_result(result)

    async def _bury(self, name: str, image: Image | None) -> None:
        """End a life, and let the next one begin on what is left."""
        life = self._alive[name]
        life.stop()
        await asyncio.wait([life.task])
        del self._alive[name]
        machine = self.machine(name)
        if machine is not None and image is not None:
            machine.restore(image)
            if self._show_death is not None:
                self._show_death(name, image)
