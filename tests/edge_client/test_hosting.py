import asyncio
from pathlib import Path
from random import Random

import pytest

from broker.simulated import SimulatedBroker
from edge_client.config import EdgeSettings
from edge_client.hosting import HostedDevice, run_many
from shared.errors import CredentialsRefused
from shared.task import Arrays, Client, ClientId, Trained, Work
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
