"""The parts of a fleet in containers: what a broker, an aggregator and a device do in one of their own.

Each part obeys orders over a socket in the run's folder (`control.py`): broker and aggregator are killed and come back,
a device's link is cut. A device starts its own faulty link on 127.0.0.1 and lives behind it, as a process of its own,
so that the link goes on when the device is killed. An aggregator that ends by itself ends its part, with its exit code.

Not here: the command line (`command.py`), and who is told what (`chaos.py`).
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from aggregator.config import Settings
from broker.config import BrokerSettings
from broker.server.choice import RunningBroker, running_broker
from broker.server.faulty_link import FaultyLink, faulty_link
from shared.config import ENV_PREFIX
from shared.errors import FederationError
from simulator.containers.control import Order, listening
from simulator.containers.places import Places, claimed
from simulator.hosted import HostPlan
from simulator.processes import Child, child_process
from simulator.restartable import Restartable
from simulator.scenario import PlannedDevice, Scenario
from simulator.settings_files import aggregator_toml, host_toml

__all__ = ["AGGREGATOR", "BROKER", "run_aggregator", "run_broker", "run_device"]

BROKER = "broker"
AGGREGATOR = "aggregator"
COUNT_EVERY_S = 2.0
"""Bytes over a link are written down this often, for its process may be killed."""


class _BrokerLife:
    """See `restartable.Life`."""

    def __init__(self, running: RunningBroker) -> None:
        self._running = running

    async def ended(self) -> int:
        return await self._running.wait()

    def kill(self) -> None:
        os.kill(self._running.pid, signal.SIGKILL)

    def end(self) -> None:
        os.kill(self._running.pid, signal.SIGTERM)


async def run_broker(places: Places, *, host: str, port: int) -> int:
    """Run a broker that can be told to die; return its exit code should it end by itself.

    Args:
        places: of the run.
        host: address to listen on.
        port: TCP port, in every life.

    Raises:
        ConfigError: there is no broker to run, or the port is taken.
    """

    @asynccontextmanager
    async def life(_: int) -> AsyncIterator[_BrokerLife]:
        async with running_broker(host=host, port=port) as running:
            yield _BrokerLife(running)

    broker = Restartable(life)
    async with listening(places.control, BROKER, _killing(broker.kill)):
        return await broker.run()


async def run_aggregator(places: Places, settings: Settings, *, broker_url: str, task_folder: Path) -> int:
    """Run the aggregator, through kills, to the end of the run; return its exit code.

    Args:
        places: of the run.
        settings: of the run.
        broker_url: in place of theirs.
        task_folder: where the task's module may lie.
    """
    places.settings.write_text(aggregator_toml(settings, broker_url=broker_url))

    @asynccontextmanager
    async def life(_: int) -> AsyncIterator[Child]:
        arguments = ["run", str(places.settings)]
        environment = _environment(task_folder)
        async with child_process(AGGREGATOR, "aggregator", arguments, log=None, environment=environment) as child:
            yield child

    aggregator = Restartable(life)
    async with listening(places.control, AGGREGATOR, _killing(aggregator.kill)):
        return await aggregator.run()


async def run_device(
    places: Places, scenario: Scenario, settings: Settings, *, group: str, broker_url: str, task_folder: Path
) -> int:
    """Be a device of this group that nobody else is, behind its own link; return its exit code.

    Args:
        places: of the run.
        scenario: the fleet.
        settings: of the run; for task, fleet and seed.
        group: of the scenario.
        broker_url: the broker, as seen from here.
        task_folder: where the task's module may lie.

    Raises:
        ConfigError: every device of the group runs already.
    """
    planned = {device.id: device for device in scenario.plan() if device.group == group}
    target = BrokerSettings(url=broker_url)
    with claimed(places.claims, list(planned)) as name:
        device = planned[name]
        link = faulty_link(target.host, target.port, device.link, seed=f"{settings.seed}/{name}")
        async with link as way, _counted(way, places.links / f"{name}.json"), _cuttable(places, name, way):
            return await _client(places, settings, device, way.url, task_folder)


async def _client(places: Places, settings: Settings, device: PlannedDevice, url: str, task_folder: Path) -> int:
    host, plan = places.devices / f"{device.id}.toml", places.devices / f"{device.id}.json"
    host.write_text(
        host_toml([device], {device.id: url}, task=settings.task, fleet=settings.fleet, folder=places.devices)
    )
    plan.write_text(HostPlan(notes=places.notes).model_dump_json())
    arguments = [str(host), str(plan)]
    environment = _environment(task_folder)
    async with child_process(device.id, "simulator.hosted", arguments, log=None, environment=environment) as child:
        return await child.ended()


def _killing(kill: Callable[[float], Awaitable[None]]) -> Callable[[Order], Awaitable[None]]:
    async def obey(order: Order) -> None:
        if order.act != "kill":
            raise FederationError("it has no link to cut")
        structlog.get_logger().warning("part_killed", lasts_s=order.lasts_s)
        await kill(order.lasts_s)

    return obey


@asynccontextmanager
async def _cuttable(places: Places, name: str, link: FaultyLink) -> AsyncIterator[None]:
    """Let a link be cut while the context is open."""

    async def obey(order: Order) -> None:
        if order.act != "cut":
            raise FederationError("a device's link is cut, nothing else")
        await link.down()
        structlog.get_logger().warning("link_cut", device=name, lasts_s=order.lasts_s)
        asyncio.get_running_loop().call_later(order.lasts_s, link.up)

    async with listening(places.control, name, obey):
        yield


def _counted_before(path: Path) -> dict[str, int]:
    counted: dict[str, int] = json.loads(path.read_text()) if path.exists() else {"up": 0, "down": 0}
    return counted


@asynccontextmanager
async def _counted(link: FaultyLink, path: Path) -> AsyncIterator[None]:
    """Write down now and then what went over a link, on top of what is written there from earlier lives."""
    before = _counted_before(path)

    def write() -> None:
        counted = {"up": before["up"] + link.bytes_up, "down": before["down"] + link.bytes_down}
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(counted))
        temporary.replace(path)

    async def now_and_then() -> None:
        while True:
            write()
            await asyncio.sleep(COUNT_EVERY_S)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(now_and_then(), name="bytes")
        try:
            yield
        finally:
            counting.cancel()
            write()


def _environment(task_folder: Path) -> dict[str, str]:
    path = [str(task_folder.resolve()), os.environ.get("PYTHONPATH", "")]
    return {
        **{name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)},
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
