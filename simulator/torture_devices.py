"""One process full of devices under torture: the real `EdgeClient`s of `edge_client.hosting`, with a notebook.

Not here: when it is killed (`torture_run.py`), what its notes must add up to (`torture_checks.py`).
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from edge_client.config import EdgeSettings
from edge_client.hosting import HostedDevice, run_many
from shared.logs import set_up_logs
from shared.task import Client, ClientId
from shared.topics import Topics
from simulator.torture_notes import Note, Notebook, NotingTransport, What
from simulator.torture_task import CountingTask

__all__ = ["main"]


def main(plan: Mapping[str, Any]) -> int:
    """Run devices until killed.

    Args:
        plan: `settings` of all of them, `urls` of each one's way to the broker, `n_params` of the model, `notes`.
    """
    set_up_logs("warning", as_json=True)
    settings = EdgeSettings.model_validate(plan["settings"])
    topics, notebook = Topics(settings.fleet), Notebook(Path(plan["notes"]))
    hosted = []
    for device, url in plan["urls"].items():
        notebook.write(Note(what=What.BORN, device=device))
        broker = BrokerSettings(url=url, keepalive_s=settings.broker.keepalive_s)
        transport = NotingTransport(MqttTransport(broker, device), device, topics, notebook)
        client = Client(id=ClientId(device))
        hosted.append(HostedDevice(settings=settings, client=client, transport=transport))
    asyncio.run(run_many(hosted, CountingTask(plan["n_params"], Random(), notebook.produced)))
    return 0
