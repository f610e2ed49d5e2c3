import asyncio
import threading
from pathlib import Path

from broker.simulated import SimulatedBroker
from edge_client.config import EdgeSettings
from edge_client.hosting import HostedDevice, run_many
from shared.task import Arrays, Client, ClientId, Trained, Work
from tests.edge_client.fake_aggregator import FakeAggregator
from tests.edge_client.tasks import AddOne

TIMEOUT_S = 10.0


async def test_devices_side_by_side_train_at_the_same_time(tmp_path: Path) -> None:
    """Three trainings that each wait for the two others end: none of them stands in another's line."""
    together = threading.Barrier(3, timeout=TIMEOUT_S)

    class Meeting(AddOne):
        def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
            together.wait()
            return super().train(parameters, work, client)

    broker, task, stop = SimulatedBroker(), Meeting(100), asyncio.Event()
    aggregator = FakeAggregator(broker, task)
    aggregator.orders = [aggregator.order(number) for number in (1, 2, 3)]
    devices = [
        HostedDevice(
            settings=EdgeSettings(folder=tmp_path),
            client=Client(id=ClientId(f"pi-{i}"), partition=(i, 3)),
            transport=broker.transport(f"pi-{i}"),
            task=task,
        )
        for i in range(3)
    ]
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        serving = group.create_task(aggregator.serve())
        hosting = group.create_task(run_many(devices, AddOne(100), side_by_side=True, stop=stop))
        while len(aggregator.finals) < 3:  # noqa: ASYNC110 - a condition, on the loop of the devices
            await asyncio.sleep(0.01)
        stop.set()
        await hosting
        serving.cancel()
    assert not together.broken
