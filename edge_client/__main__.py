"""`python -m edge_client`: take part in a fleet, from this machine; `outbox` and `conditions` tell of it."""

import edge_client.lean_imports  # isort: skip  # noqa: F401  # before anything that imports structlog or typer

import asyncio
import re
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from edge_client.conditions_command import conditions
from edge_client.config import DeviceSettings, EdgeSettings
from edge_client.device_class import read_device_class
from edge_client.hosting import HostedDevice, run_many
from edge_client.outbox_command import outbox
from shared.config import load_settings
from shared.errors import ConfigError
from shared.logs import LogLevel, set_up_logs
from shared.task import Client, ClientId, Task, load_task
from shared.topics import NAME

__all__ = ["app"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(outbox, name="outbox")
app.command()(conditions)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings; the options below override it.")] = None,
    broker: Annotated[str | None, typer.Option(help="Broker, mqtt://host:port or mqtts://user@host:port.")] = None,
    fleet: Annotated[str | None, typer.Option(help="Fleet to take part in.")] = None,
    task: Annotated[str | None, typer.Option(help="The task, module:name.")] = None,
    data: Annotated[Path | None, typer.Option(help="This device's data, handed to the task.")] = None,
    id: Annotated[str | None, typer.Option(help="Name of this device; default: from the host's name.")] = None,
    device_class: Annotated[str | None, typer.Option(help="Its kind, such as pi-4; default: as Linux tells.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="I/N", help="Part I of N of the data, I from 0.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="So many devices in this process: ID-0, ID-1, …")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where devices keep their state.")] = None,
    no_state: Annotated[bool, typer.Option("--no-state", help="Keep nothing of a training for the next.")] = False,
    once: Annotated[bool, typer.Option("--once", help="End when the run is finished; else wait for the next.")] = False,
    check_config: Annotated[bool, typer.Option("--check-config", help="Check settings and task, then end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Log JSON lines, even on a terminal.")] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Take part in a fleet: wait for work, train on this device's own data, send what was learned.

    Goes on for ever, through lost links and reboots. SIGTERM and Ctrl-C end it cleanly; finished updates stay in the
    outbox and are offered at the next start.

    Exit codes: 0 ended as asked; 2 a setting, the task or the data is wrong, or, with --once, another device uses this
    id; 3 the broker refuses the credentials; 4 another process has this device's folder.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        level = _level(log_level)
        overrides = {
            "broker.url": broker,
            "fleet": fleet,
            "task": task,
            "data": str(data) if data else None,
            "id": id,
            "device_class": device_class,
            "partition": _partition(partition),
            "folder": str(folder) if folder else None,
            "until_finished": True if once else None,
            "keeps_state": False if no_state else None,
        }
        settings = load_settings(EdgeSettings, config, overrides)
        found = _task(settings, config)
        hosted = [_hosted(settings, device) for device in plan_devices(settings, devices)]
        if check_config:
            typer.echo(f"{config or 'settings'}: fine; {', '.join(each.client.id for each in hosted)}")
        else:
            set_up_logs(level, as_json=json or None)
            asyncio.run(_run(hosted, found))
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def plan_devices(settings: EdgeSettings, count: int | None) -> list[DeviceSettings]:
    """Return the devices of this process: those that are listed, `count` numbered ones, or the one.

    Raises:
        ConfigError: two of these are asked for.
    """
    if settings.devices:
        if count is not None or settings.id is not None:
            raise ConfigError("devices are listed, so there is no place for --devices and id")
        return settings.devices
    name = settings.id or name_of_host(socket.gethostname())
    if count is None:
        return [DeviceSettings(id=name, data=settings.data, partition=settings.partition)]
    if settings.partition is not None:
        raise ConfigError("--devices gives each device a part of its own, so there is no place for a partition")
    return [DeviceSettings(id=f"{name}-{i}", data=settings.data, partition=(i, count)) for i in range(count)]


def name_of_host(host: str) -> str:
    """Return a host's name as a device may be called."""
    name = re.sub(r"[^a-z0-9_-]+", "-", host.partition(".")[0].lower()).strip("-_")[:60]
    return name if NAME.fullmatch(name) else "device"


def _hosted(settings: EdgeSettings, device: DeviceSettings) -> HostedDevice:
    broker = settings.broker
    if device.url is not None:
        broker = BrokerSettings.model_validate({**dict(broker), "url": device.url})
    device_class = device.device_class or settings.device_class or read_device_class()
    changes = {"broker": broker, "device_class": device_class, "until_finished": bool(settings.until_finished)}
    keeps_state = settings.keeps_state if device.keeps_state is None else device.keeps_state
    own = settings.model_copy(update={**changes, "keeps_state": keeps_state})
    data = device.data or settings.data
    if data is not None:
        _check_data(device.id, data)
    client = Client(id=ClientId(device.id), data=data, partition=device.partition)
    return HostedDevice(settings=own, client=client, transport=MqttTransport(broker, device.id))


def _check_data(device: str, data: Path) -> None:
    try:
        data.stat()
    except OSError as error:
        hint = "" if data.is_absolute() else f"a relative path begins at the current folder, {Path.cwd()}"
        raise ConfigError(f"data {str(data)!r}: {error.strerror}", where=f"device {device}", hint=hint) from error


def _task(settings: EdgeSettings, config: Path | None) -> Task:
    if settings.task is None:
        raise ConfigError("task is missing", hint="for example --task examples.digits:task")
    return load_task(settings.task, config.parent if config else Path.cwd())


def _partition(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ConfigError(f"--partition {text!r} is not of the form I/N", hint="for example 0/5, the first of five")
    return int(match[1]), int(match[2])


def _level(text: str) -> LogLevel:
    match text:
        case "debug" | "info" | "warning" | "error":
            return text
        case _:
            raise ConfigError(f"--log-level {text!r}: debug, info, warning or error")


async def _run(devices: list[HostedDevice], task: Task) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_many(devices, task, stop=stop)


if __name__ == "__main__":
    app()
