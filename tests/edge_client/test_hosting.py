import asyncio
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from broker.simulated import SimulatedBroker
from edge_client.config import EdgeSettings
from edge_client.hosting import HostedDevice, run_many
from shared.blocking import Lane
from shared.errors import CredentialsRefused
from shared.messages import DeviceStatus
from shared.task import Arrays, Client, ClientId, Trained, Work
from shared.topics import StatusTopic
from shared.wire import decode_json
from simulator.inline_blocking import InlineBlocking
from tests.edge_client.builders import lease
from tests.edge_client.fake_aggregator import FakeAggregator
from tests.edge_client.tasks import AddOne, Scripted

pytestmark = pytest.mark.virtual_time


def some_devices(broker: SimulatedBroker, folder: Path, count: int) -> list[HostedDevice]:
    """Devices that share their settings."""
    settings = EdgeSettings(folder=folder)
    return [
        HostedDevice(
            settings=settings,
            client=Client(id=ClientId(f"pi-{i}"), partition=(i, count)),
            transport=broker.transport(f"pi-{i}"),
        )
        for i in range(count)
    ]


async def test_device_that_waits_for_its_turn_shows_progress(tmp_path: Path) -> None:
    """Its lease lives on while those before it train: what it says in its status rises before its turn has come."""
    broker, task, stop = SimulatedBroker(), AddOne(100), asyncio.Event()
    aggregator = FakeAggregator(broker, task)
    aggregator.orders = [aggregator.order(number, status_every_s=1.0) for number in (1, 2, 3)]
    seen: defaultdict[tuple[int, str], list[float]] = defaultdict(list)  # by device and lease
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(aggregator.serve())
        lanes = InlineBlocking(Random(1), {Lane.TRAINING: (20.0, 20.0)})
        devices = some_devices(broker, tmp_path, 3)
        hosting = group.create_task(run_many(devices, task, run_blocking=lanes, stop=stop))
        while len(aggregator.finals) < 3:
            await asyncio.sleep(0.5)
            for i in range(3):
                said = broker.retained.get(aggregator.topics.build(StatusTopic(f"pi-{i}")))
                status = decode_json(DeviceStatus, said) if said else None
                if status and status.lease and status.phase == "training" and status.progress is not None:
                    seen[i, status.lease].append(status.progress)
        stop.set()
        await hosting
        serving.cancel()
    for shown in seen.values():
        assert shown == sorted(shown)
    assert max(len({progress for progress in shown if 0 < progress <= 2 / 3}) for shown in seen.values()) >= 2


async def test_devices_train_one_at_a_time(tmp_path: Path) -> None:
    """One task, one training lane, whoever trains; each with its own id and part."""
    running, most = 0, 0

    class Counting(AddOne):
        def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
            nonlocal running, most
            running += 1
            most = max(most, running)
            trained = super().train(parameters, work, client)
            running -= 1
            return trained

    broker, task, stop = SimulatedBroker(), Counting(100), asyncio.Event()
    aggregator = FakeAggregator(broker, task)
    aggregator.orders = [aggregator.order(number) for number in (1, 2, 3)]
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(aggregator.serve())
        devices = some_devices(broker, tmp_path, 3)
        hosting = group.create_task(run_many(devices, task, run_blocking=InlineBlocking(Random(1)), stop=stop))
        while len(aggregator.finals) < 3:  # noqa: ASYNC110 - nobody tells a test
            await asyncio.sleep(0.1)
        stop.set()
        await hosting
        serving.cancel()
    assert most == 1
    assert aggregator.finals.keys() == {lease(1), lease(2), lease(3)}
    assert {client.id for client in task.clients} <= {"pi-0", "pi-1", "pi-2"}
    assert {client.partition for client in task.clients} <= {(0, 3), (1, 3), (2, 3)}
    assert not broker.connected - {"aggregator"}


async def test_device_that_cannot_start_ends_all(tmp_path: Path) -> None:
    """A wrong password is said by ending, not by a device less."""
    broker = SimulatedBroker()
    broker.refuse("pi-1")
    with pytest.raises(CredentialsRefused):
        await run_many(some_devices(broker, tmp_path, 3), Scripted(), run_blocking=InlineBlocking(Random(1)))
