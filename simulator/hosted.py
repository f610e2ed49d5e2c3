"""`python -m simulator.hosted HOST.toml [PLAN.json]`: the devices of one process, with what a scenario adds to them.

The devices are those of `edge_client.hosting`, and HOST.toml is a file for `python -m edge_client --config`. The plan
adds what no real device has: trainings that take a scenario's seconds, devices that drop out in the midst of one, and a
notebook in which each device writes what it offered and what it was told, for the check in the end.

Not here: who is killed when (`rehearsal.py`), what the notes must add up to (`torture_checks.py`).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from edge_client.config import DeviceSettings, EdgeSettings
from edge_client.hosting import HostedDevice, run_many
from edge_client.training import CarryOut, carry_out
from shared.config import load_settings
from shared.errors import ConfigError
from shared.logs import set_up_logs
from shared.task import Client, ClientId, Task, load_task
from shared.topics import Topics
from simulator.attackers import Attacker
from simulator.padded_task import PaddedTask
from simulator.scenarios.attacks import AttackSettings
from simulator.scenarios.faults import DeviceFaults, drops_out
from simulator.torture_notes import Note, Notebook, NotingTransport, What

__all__ = ["HostPlan", "hosted_devices", "main"]


class HostPlan(BaseModel):
    """What a scenario adds to the devices of one process.

    Args:
        notes: folder of the notebooks, one a device; None: nothing is noted.
        batch_s: seconds that a batch takes, by device; who is missing takes what this machine takes.
        faults: of devices that may drop out, by device.
        attacks: of devices that attack, by device.
        colluders: part of the data of every attacker of the fleet, by device.
        seed: of the scenario.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: Path | None = None
    batch_s: dict[str, float] = {}
    faults: dict[str, DeviceFaults] = {}
    attacks: dict[str, AttackSettings] = {}
    colluders: dict[str, tuple[int, int]] = {}
    seed: int = 0


def hosted_devices(settings: EdgeSettings, plan: HostPlan, task: Task) -> list[HostedDevice]:
    """Return the devices that are listed in the settings, each with what the plan adds."""
    return [_hosted(settings, device, plan, task) for device in settings.devices]


def _hosted(settings: EdgeSettings, device: DeviceSettings, plan: HostPlan, task: Task) -> HostedDevice:
    broker = BrokerSettings.model_validate({**dict(settings.broker), "url": device.url or settings.broker.url})
    transport = MqttTransport(broker, device.id)
    changes = {
        "broker": broker,
        "device_class": device.device_class or settings.device_class,
        "until_finished": bool(settings.until_finished),
        "keeps_state": settings.keeps_state if device.keeps_state is None else device.keeps_state,
    }
    return HostedDevice(
        settings=settings.model_copy(update=changes),
        client=Client(id=ClientId(device.id), data=device.data or settings.data, partition=device.partition),
        transport=transport if plan.notes is None else _noting(transport, device.id, settings, plan.notes),
        task=_padded(device.id, settings.state_folder(device.id), plan, task),
        carry_out=_carry_out(device.id, plan, task),
    )


def _carry_out(device: str, plan: HostPlan, task: Task) -> CarryOut:
    if device not in plan.attacks:
        return carry_out
    colluders = [Client(id=ClientId(name), partition=partition) for name, partition in plan.colluders.items()]
    return Attacker(plan.attacks[device], task, colluders)


def _padded(device: str, folder: Path, plan: HostPlan, task: Task) -> Task:
    batch_s, faults = plan.batch_s.get(device, 0.0), plan.faults.get(device)
    if faults is None or not faults.dropout:
        return PaddedTask(task, batch_s) if batch_s else task
    counter = folder.parent / f"{device}.trainings"  # beside what the device keeps: they count through its lives

    def drops() -> float | None:
        number = 1 + (int(counter.read_text()) if counter.exists() else 0)
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text(str(number))
        return drops_out(faults, seed=plan.seed, device=device, training=number)

    return PaddedTask(task, batch_s, drops_out=drops, die=lambda: os.kill(os.getpid(), signal.SIGKILL))


def _noting(transport: MqttTransport, device: str, settings: EdgeSettings, folder: Path) -> NotingTransport:
    notebook = Notebook(folder / f"{device}.jsonl")
    notebook.write(Note(what=What.BORN, device=device))
    return NotingTransport(transport, device, Topics(settings.fleet), notebook)


async def _run(settings: EdgeSettings, plan: HostPlan, task: Task) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run_many(hosted_devices(settings, plan, task), task, side_by_side=bool(plan.batch_s), stop=stop)


def main(arguments: Sequence[str]) -> int:
    """Run devices until SIGTERM; return the exit code, which is that of `python -m edge_client`."""
    set_up_logs("info")
    host, *plans = map(Path, arguments)
    try:
        settings = load_settings(EdgeSettings, host)
        plan = HostPlan.model_validate_json(plans[0].read_bytes()) if plans else HostPlan()
        if settings.task is None:
            raise ConfigError("task is missing", where=str(host))
        asyncio.run(_run(settings, plan, load_task(settings.task, host.parent)))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
