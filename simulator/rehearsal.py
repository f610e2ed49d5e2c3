"""A fleet for real: a broker, an aggregator and devices as processes, each device behind a link of its own.

The rehearsal only starts, watches and ends. What happens on the wire it sees as any subscriber does; whoever is to be
killed is killed when the broker has part of its update. It is over when the aggregator says that the run is finished,
when a process that should live has ended, or when its time is up; in every case nothing is left running.

Not here: reading settings and speaking to the terminal (`__main__.py`), what a link does (`broker.server.faulty_link`).
"""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

from aggregator.config import Settings
from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.choice import KindChoice
from broker.server.faulty_link import FaultyLink, faulty_link
from broker.transport import Transport
from shared.config import ENV_PREFIX
from shared.errors import FederationError, TransportError, leaf_of
from shared.messages import AggregatorStatus
from shared.topics import AggregatorStatusTopic, Topics
from shared.wire import decode_json
from simulator.broker_process import broker_process
from simulator.mid_upload import until_mid_upload
from simulator.processes import Child, child_process, stop
from simulator.scenario import PlannedDevice, Scenario
from simulator.settings_files import aggregator_toml, host_toml
from simulator.summary import Killed, Summary, summarize

__all__ = ["Rehearsal", "Say", "Watch"]

AGGREGATOR = "aggregator"
FINISHED = "finished"
"""The aggregator's last phase."""
RESULTS_S = 8.0
"""After the finish, seconds for the aggregator to write its results and to answer whoever still asks. It would go on
for half a minute when a device is away, which may be for good here."""
INTERRUPTED = 130
"""The aggregator's exit code when it is ended while it still answers."""

Say: TypeAlias = Callable[[str], None]
"""Where a line for the operator goes."""
Watch: TypeAlias = Callable[[Transport], Coroutine[Any, Any, None]]
"""Shows how the run goes, until cancelled."""
Hosts: TypeAlias = list[tuple[tuple[PlannedDevice, ...], Child]]


class Rehearsal:
    """One rehearsal. To be run once.

    Args:
        scenario: the fleet.
        settings: of the run; it has a name.
        task_folder: where the task's module may lie.
        kind: which broker.
        say: where lines for the operator go.
        watch: shows the run while it lasts.
    """

    def __init__(
        self, scenario: Scenario, settings: Settings, *, task_folder: Path, kind: KindChoice, say: Say, watch: Watch
    ) -> None:
        self._scenario, self._settings, self._kind = scenario, settings, kind
        self._say, self._watch = say, watch
        self._run_folder = settings.output.folder / (settings.run or "rehearsal")
        self._folder = self._run_folder / "rehearsal"
        self._topics = Topics(settings.fleet)
        self._broker = BrokerSettings()
        self._links: dict[str, FaultyLink] = {}
        self._children: list[Child] = []
        self._killed: list[Killed] = []
        self._status: AggregatorStatus | None = None
        self._finished = asyncio.Event()
        path = [str(task_folder.resolve()), os.environ.get("PYTHONPATH", "")]
        self._environment = {
            # what the environment says of settings is in the files already
            **{name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)},
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # several processes share few cores
        }

    async def run(self) -> Summary:
        """Run it to its end, and return what came of it.

        Raises:
            FederationError: a process that should live has ended, or the time is up.
        """
        begun = asyncio.get_running_loop().time()
        self._folder.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._scenario.time_limit_s):
                    await self._conduct(stack)
            except TimeoutError as error:
                limit = f"not finished after {self._scenario.time_limit_s:g} s"
                raise FederationError(f"{limit}; the logs are in {self._folder}") from error
            finally:
                await stop(*self._children)  # all at once, and the broker, which they say goodbye to, after them
        return summarize(
            self._run_folder,
            metric=self._settings.stop.metric,
            counts=self._status.states if self._status else {},
            seconds=asyncio.get_running_loop().time() - begun,
            bytes_up=sum(link.bytes_up for link in self._links.values()),
            bytes_down=sum(link.bytes_down for link in self._links.values()),
            killed=self._killed,
        )

    async def _conduct(self, stack: AsyncExitStack) -> None:
        """Start everybody, wait for the finish, end everybody in good order."""
        broker_log = self._folder / "broker.log"
        broker, running = await stack.enter_async_context(broker_process(self._kind, broker_log, self._environment))
        self._broker = BrokerSettings(url=running.url)
        self._introduce(running.name)
        for device in self._scenario.plan():
            seed = f"{self._settings.seed}/{device.id}"
            link = faulty_link(self._broker.host, self._broker.port, device.link, seed=seed)
            self._links[device.id] = await stack.enter_async_context(link)
        aggregator = await self._start(stack, self._aggregator())
        hosts: Hosts = []
        for number, devices in enumerate(self._scenario.hosts(), start=1):
            hosts.append((devices, await self._start(stack, self._host(number, devices))))
        try:
            await self._follow(broker, aggregator, hosts)
        except BaseExceptionGroup as errors:
            raise leaf_of(errors) from errors
        doomed = {device.id for device in self._scenario.plan() if device.killed_in_upload}
        for spared in sorted(doomed - {killed.device for killed in self._killed}):
            self._say(f"Spared:   {spared} was never seen in mid-upload")
        self._say("Finished: devices fetch their last receipts")
        with suppress(TimeoutError):
            async with asyncio.timeout(RESULTS_S):
                await aggregator.ended()
        await stop(*self._children)
        code = await aggregator.ended()
        if code not in (0, INTERRUPTED):
            raise aggregator.failure(code)

    async def _start(self, stack: AsyncExitStack, process: AbstractAsyncContextManager[Child]) -> Child:
        child = await stack.enter_async_context(process)
        self._children.append(child)
        return child

    def _introduce(self, broker: str) -> None:
        fleet, task, url = self._settings.fleet, self._settings.task, self._broker.url
        groups = ", ".join(f"{count} {name}" for name, count in self._scenario.counts.items())
        self._say(f"Broker:   {broker}, {url}")
        self._say(f"Devices:  {groups}; in {len(self._scenario.hosts())} processes, each device behind its own link")
        self._say(f"Logs:     {self._folder}")
        options = ["--broker", url, "--fleet", fleet, "--task", task, "--id", "late-1", "--once"]
        self._say(f"One more: {shlex.join([_interpreter(), '-m', 'edge_client', *options])}")

    def _aggregator(self) -> AbstractAsyncContextManager[Child]:
        path = self._folder / "aggregator.toml"
        path.write_text(aggregator_toml(self._settings, broker_url=self._broker.url))
        return self._child(AGGREGATOR, "aggregator", "run", str(path))

    def _host(self, number: int, devices: tuple[PlannedDevice, ...]) -> AbstractAsyncContextManager[Child]:
        name = devices[0].id if devices[0].killed_in_upload else f"devices-{number}"
        path = self._folder / f"{name}.toml"
        urls = {device.id: self._links[device.id].url for device in devices}
        settings, folder = self._settings, self._folder / "devices"
        path.write_text(host_toml(devices, urls, task=settings.task, fleet=settings.fleet, folder=folder))
        return self._child(name, "edge_client", "--config", str(path))

    def _child(self, name: str, module: str, *arguments: str) -> AbstractAsyncContextManager[Child]:
        log = self._folder / f"{name}.log"
        return child_process(name, module, arguments, log=log, environment=self._environment)

    async def _follow(self, broker: Child, aggregator: Child, hosts: Hosts) -> None:
        """Wait for the finish, while whoever is to be killed is killed and nobody else may end."""
        async with asyncio.TaskGroup() as group:
            followers = [
                group.create_task(self._watch(self._transport("watch")), name="watch"),
                group.create_task(self._read_status(), name="status"),
                group.create_task(self._guard(broker), name="broker"),
                group.create_task(self._guard(aggregator), name=AGGREGATOR),
            ]
            for devices, child in hosts:
                is_killed = devices[0].killed_in_upload
                work = self._kill_in_upload(devices[0].id, child) if is_killed else self._guard(child)
                followers.append(group.create_task(work, name=child.name))
            await self._finished.wait()
            for follower in followers:
                follower.cancel()

    async def _guard(self, child: Child) -> None:
        """Refuse the end of a process that should live until the run is finished."""
        code = await child.ended()
        if child.name != AGGREGATOR or code != 0:
            raise child.failure(code)
        self._finished.set()  # it may have ended before its last word has come to us

    async def _kill_in_upload(self, device: str, child: Child) -> None:
        """Kill a device when the broker has part of its update."""
        chunks, n_chunks = await until_mid_upload(self._transport(f"watch-{device}"), self._topics, device)
        child.send(signal.SIGKILL)
        round_id = self._status.round if self._status else None
        self._killed.append(Killed(device=device, chunks=chunks, n_chunks=n_chunks, round_id=round_id))
        self._say(f"Killed:   {device} (SIGKILL), with {chunks} of {n_chunks} chunks sent")

    async def _read_status(self) -> None:
        """Keep what the aggregator says, and notice when it says that the run is finished."""
        try:
            async with self._transport("status").connect() as connection:
                await connection.subscribe([self._topics.build(AggregatorStatusTopic())])
                async for message in connection.messages():
                    status = decode_json(AggregatorStatus, message.payload)
                    if status.phase:  # a will has none
                        self._status = status
                    if status.phase == FINISHED:
                        self._finished.set()
        except TransportError as error:
            raise FederationError(f"the broker is gone: {error}") from error

    def _transport(self, name: str) -> Transport:
        return MqttTransport(self._broker, f"rehearsal-{name}")


def _interpreter() -> str:
    """Return how a terminal in the current folder, where no environment need be active, calls this Python."""
    path = Path(sys.executable)  # unresolved: what it links to knows nothing of the environment
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
