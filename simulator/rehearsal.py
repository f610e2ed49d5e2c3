"""A fleet for real: a broker, an aggregator and devices as processes, each device behind a link of its own.

The rehearsal only starts, watches and ends. What happens on the wire it sees as any subscriber does; whoever is to be
killed is killed when the broker has part of its update. It is over when the aggregator says that the run is finished,
when a process that should live has ended, or when its time is up; in every case nothing is left running.

Not here: reading settings and speaking to the terminal (`__main__.py`), what a link does (`broker.server.faulty_link`),
what befalls single devices (`rehearsed_host.py`), and the schedule of what befalls all (`chaos.py`).
"""

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
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
from simulator.broker_process import AnsweringBroker, broker_process
from simulator.chaos import carry_out
from simulator.containers.places import Places
from simulator.hosted import HostPlan
from simulator.leash import GRACE_S
from simulator.mid_upload import until_mid_upload
from simulator.processes import Child, child_process
from simulator.rehearsed_host import Cuts, RehearsedHost
from simulator.restartable import Restartable
from simulator.scenario import PlannedDevice, Scenario
from simulator.scenarios.traces import Trace
from simulator.settings_files import aggregator_toml, host_toml
from simulator.summary import Killed, Summary, summarize
from simulator.torture_broker import free_port

__all__ = ["Rehearsal", "Say", "Watch"]

BROKER, AGGREGATOR = "broker", "aggregator"
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
BROKER_AWAY_S = 0.5
"""Between tries to reach a broker that was killed and will be back."""


class _BrokerLife:
    """See `restartable.Life`: the child watches the broker, and it is the broker that is killed."""

    def __init__(self, child: Child, answering: AnsweringBroker) -> None:
        self.child, self.answering = child, answering

    async def ended(self) -> int:
        return await self.child.ended()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.answering.pid, signal.SIGKILL)

    def end(self) -> None:
        self.child.end()


class Rehearsal:
    """One rehearsal. To be run once.

    Args:
        scenario: the fleet.
        settings: of the run; it has a name.
        task_folder: where the task's module may lie.
        traces: by the paths that the scenario names.
        kind: which broker.
        say: where lines for the operator go.
        watch: shows the run while it lasts.
    """

    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        *,
        task_folder: Path,
        traces: Mapping[Path, tuple[Trace, ...]],
        kind: KindChoice,
        say: Say,
        watch: Watch,
    ) -> None:
        self._scenario, self._settings, self._kind = scenario, settings, kind
        self._say, self._watch, self._traces = say, watch, traces
        self._plan = scenario.plan()
        self._places = Places(settings.output.folder / (settings.run or "rehearsal"))
        self._topics = Topics(settings.fleet)
        self._broker_settings = BrokerSettings()
        self._may_restart = any(fault.kind == "broker_restart" for fault in scenario.faults)
        self._port = free_port(Random()) if self._may_restart else 0
        self._broker: Restartable[_BrokerLife] = Restartable(self._broker_life)
        self._aggregator: Restartable[Child] = Restartable(self._aggregator_life)
        self._links: dict[str, FaultyLink] = {}
        self._cuts = Cuts(self._links)
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
        self._places.make()
        try:
            async with asyncio.timeout(self._scenario.time_limit_s), asyncio.TaskGroup() as group:
                broker = group.create_task(self._guard(BROKER), name=BROKER)
                await self._with_broker()
                broker.cancel()
        except TimeoutError as error:
            limit = f"not finished after {self._scenario.time_limit_s:g} s"
            hint = "time_limit_s in the scenario gives it more"
            raise FederationError(f"{limit}: {hint}; the logs are in {self._places.folder}") from error
        except BaseExceptionGroup as errors:
            raise leaf_of(errors) from errors
        return summarize(
            self._places.run_folder,
            metric=self._settings.stop.metric,
            counts=self._status.states if self._status else {},
            seconds=asyncio.get_running_loop().time() - begun,
            bytes_up=sum(link.bytes_up for link in self._links.values()),
            bytes_down=sum(link.bytes_down for link in self._links.values()),
            killed=self._killed,
        )

    async def _with_broker(self) -> None:
        """Start everybody else, wait for the finish, end everybody in good order; the broker outlives them."""
        answering = (await self._broker.up()).answering
        self._broker_settings = BrokerSettings(url=answering.url)
        self._places.settings.write_text(aggregator_toml(self._settings, broker_url=answering.url))
        self._introduce(answering)
        host, port = self._broker_settings.host, self._broker_settings.port
        async with AsyncExitStack() as links:
            for device in self._plan:
                link = faulty_link(host, port, device.link, seed=f"{self._settings.seed}/{device.id}")
                self._links[device.id] = await links.enter_async_context(link)
            await self._conduct()
            for name, way in self._links.items():
                counted = {"up": way.bytes_up, "down": way.bytes_down}
                (self._places.links / f"{name}.json").write_text(json.dumps(counted))

    async def _conduct(self) -> None:
        async with asyncio.TaskGroup() as group:
            aggregator = group.create_task(self._guard(AGGREGATOR), name=AGGREGATOR)
            hosts = [
                group.create_task(self._live(number, devices), name=f"host {number}")
                for number, devices in enumerate(self._scenario.hosts(), start=1)
            ]
            followers = [
                group.create_task(self._through_restarts(self._read_status), name="status"),
                group.create_task(self._through_restarts(lambda: self._watch(self._transport("watch"))), name="watch"),
                group.create_task(self._chaos(), name="chaos"),
            ]
            await self._finished.wait()
            for follower in followers:
                follower.cancel()
            doomed = {device.id for device in self._plan if device.killed_in_upload}
            for spared in sorted(doomed - {killed.device for killed in self._killed}):
                self._say(f"Spared:   {spared} was never seen in mid-upload")
            self._say("Finished: devices fetch their last receipts")
            await asyncio.wait([aggregator], timeout=RESULTS_S)
            for host in hosts:  # devices and aggregator at once
                host.cancel()
            if self._aggregator.life is not None:
                self._aggregator.life.end()
            await asyncio.wait([aggregator], timeout=GRACE_S)
            aggregator.cancel()

    # who lives

    @asynccontextmanager
    async def _broker_life(self, number: int) -> AsyncIterator[_BrokerLife]:
        log = self._log(BROKER, number)
        async with broker_process(self._kind, log, self._environment, port=self._port) as (child, answering):
            yield _BrokerLife(child, answering)

    def _aggregator_life(self, number: int) -> AbstractAsyncContextManager[Child]:
        return self._child(AGGREGATOR, number, "aggregator", "run", str(self._places.settings))

    def _host_life(self, name: str, number: int) -> AbstractAsyncContextManager[Child]:
        files = [str(self._places.folder / f"{name}.{kind}") for kind in ("toml", "json")]
        return self._child(name, number, "simulator.hosted", *files)

    def _child(self, name: str, number: int, module: str, *arguments: str) -> AbstractAsyncContextManager[Child]:
        return child_process(name, module, arguments, log=self._log(name, number), environment=self._environment)

    def _log(self, name: str, number: int) -> Path:
        return self._places.folder / (f"{name}.log" if number == 1 else f"{name}-life-{number}.log")

    async def _guard(self, part: str) -> None:
        """Refuse the end of a part that should live until the run is finished."""
        process: Restartable[_BrokerLife] | Restartable[Child] = self._broker if part == BROKER else self._aggregator
        code = await process.run()
        life = process.life
        if part == AGGREGATOR and (code == 0 or (self._finished.is_set() and code == INTERRUPTED)):
            self._finished.set()  # it may have ended before its last word has come to us
            return
        assert life is not None
        raise (life.child if isinstance(life, _BrokerLife) else life).failure(code)

    async def _live(self, number: int, devices: tuple[PlannedDevice, ...]) -> None:
        """Let a process of devices live, and whoever is to be killed in mid-upload die."""
        name = devices[0].id if devices[0].is_alone else f"devices-{number}"
        self._write_files(name, devices)
        host = RehearsedHost(
            devices,
            lambda life: self._host_life(name, life),
            seed=self._settings.seed,
            start_hour=self._scenario.start_hour,
            traces=self._traces,
            cuts=self._cuts,
        )
        if not devices[0].killed_in_upload:
            await host.run()
            return
        living = asyncio.ensure_future(host.run())
        try:
            await self._through_restarts(lambda: self._kill_in_upload(devices[0].id, host))
            await asyncio.Event().wait()
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)  # that it was killed is no failure

    def _write_files(self, name: str, devices: tuple[PlannedDevice, ...]) -> None:
        urls = {device.id: self._links[device.id].url for device in devices}
        settings, seed = self._settings, self._settings.seed
        toml = host_toml(devices, urls, task=settings.task, fleet=settings.fleet, folder=self._places.devices)
        (self._places.folder / f"{name}.toml").write_text(toml)
        batch_s = {device.id: device.device_class.batch_s(seed, device.id) for device in devices}
        plan = HostPlan(
            notes=self._places.notes,
            batch_s={device: each for device, each in batch_s.items() if each is not None},
            faults={device.id: device.faults for device in devices if device.faults.dropout},
            attacks={device.id: device.attack for device in devices if device.attack is not None},
            colluders={device.id: device.partition for device in self._plan if device.attack is not None},
            seed=seed,
        )
        (self._places.folder / f"{name}.json").write_text(plan.model_dump_json())

    async def _kill_in_upload(self, device: str, host: RehearsedHost) -> None:
        """Kill a device when the broker has part of its update."""
        chunks, n_chunks = await until_mid_upload(self._transport(f"watch-{device}"), self._topics, device)
        (await host.process.up()).kill()
        round_id = self._status.round if self._status else None
        self._killed.append(Killed(device=device, chunks=chunks, n_chunks=n_chunks, round_id=round_id))
        self._say(f"Killed:   {device} (SIGKILL), with {chunks} of {n_chunks} chunks sent")

    # what befalls all, see `chaos.Sufferers`

    async def restart(self, part: str, down_s: float) -> None:
        """Kill broker or aggregator."""
        self._say(f"Chaos:    the {part} is killed, for {down_s:g} s")
        await (self._broker.kill if part == BROKER else self._aggregator.kill)(down_s)

    async def cut(self, device: str, lasts_s: float) -> None:
        """Cut a device off."""
        loop = asyncio.get_running_loop()
        cause = f"partition of {loop.time()}"  # another may begin before this one is over
        await self._cuts.cut(device, cause)
        loop.call_later(lasts_s, self._cuts.mend, device, cause)

    async def _chaos(self) -> None:
        devices = [device.id for device in self._plan]
        log = self._places.chaos
        await carry_out(self._scenario.faults, devices, seed=self._settings.seed, on=self, log=log)

    # what is seen

    def _introduce(self, answering: AnsweringBroker) -> None:
        fleet, task = self._settings.fleet, self._settings.task
        groups = ", ".join(f"{count} {name}" for name, count in self._scenario.counts.items())
        self._say(f"Broker:   {answering.name}, {answering.url}")
        self._say(f"Devices:  {groups}; in {len(self._scenario.hosts())} processes, each device behind its own link")
        self._say(f"Logs:     {self._places.folder}")
        options = ["--broker", answering.url, "--fleet", fleet, "--task", task, "--id", "late-1", "--once"]
        self._say(f"One more: {shlex.join([_interpreter(), '-m', 'edge_client', *options])}")

    async def _read_status(self) -> None:
        """Keep what the aggregator says, and notice when it says that the run is finished."""
        async with self._transport("status").connect() as connection:
            await connection.subscribe([self._topics.build(AggregatorStatusTopic())])
            async for message in connection.messages():
                status = decode_json(AggregatorStatus, message.payload)
                if status.phase:  # a will has none
                    self._status = status
                if status.phase == FINISHED:
                    self._finished.set()

    async def _through_restarts(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Follow what happens on the broker, again when it comes back from a kill that the scenario names."""
        while True:
            try:
                await follow()
                return
            except (TransportError, FederationError) as error:
                if not self._may_restart:
                    raise FederationError(f"the broker is gone: {error}") from error
                await asyncio.sleep(BROKER_AWAY_S)

    def _transport(self, name: str) -> Transport:
        return MqttTransport(self._broker_settings, f"rehearsal-{name}")


def _interpreter() -> str:
    """Return how a terminal in the current folder, where no environment need be active, calls this Python."""
    path = Path(sys.executable)  # unresolved: what it links to knows nothing of the environment
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
