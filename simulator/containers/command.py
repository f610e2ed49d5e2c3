"""`python -m simulator part broker | aggregator | device | chaos`: one part of a fleet whose parts are containers.

docker-compose.yml runs them; nothing here knows of Docker. They meet in the run's folder, which all of them must see.
"""

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from aggregator.config import Settings
from shared.config import load_settings
from shared.errors import ConfigError, FederationError
from shared.logs import set_up_logs
from simulator.chaos import carry_out
from simulator.containers.chaos import OverSockets, until_ready
from simulator.containers.parts import run_aggregator, run_broker, run_device
from simulator.containers.places import Places
from simulator.run_settings import settings_of
from simulator.scenario import Scenario

__all__ = ["part"]

part = typer.Typer(
    help="""One part of a fleet whose parts are containers; `make compose` runs them all.

    They meet in FOLDER/RUN, which every one of them must see. Exit codes: 0 ended as asked, or the run is finished;
    1 a part failed; 2 what the operator wrote cannot work.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ScenarioPath = Annotated[Path, typer.Argument(help="The fleet's TOML.", metavar="SCENARIO.toml")]
Folder = Annotated[Path, typer.Option(help="Where runs lie.", envvar="FEDMQ_FOLDER")]
Run = Annotated[str, typer.Option(help="Name of the run; the same name resumes.", envvar="FEDMQ_RUN")]
Url = Annotated[str, typer.Option(help="The broker.", envvar="FEDMQ_BROKER")]
RUNS = Path("runs")
BROKER_URL = "mqtt://broker:1883"


@part.command()
def broker(
    folder: Folder = RUNS,
    run: Run = "compose",
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 is for a network of containers alone: no password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port, in every life.")] = 1883,
) -> None:
    """Run a broker that chaos can kill, and that comes back on the same port."""
    _do(lambda: run_broker(_places(folder, run), host=host, port=port))


@part.command()
def aggregator(
    scenario: ScenarioPath, folder: Folder = RUNS, run: Run = "compose", broker_url: Url = BROKER_URL
) -> None:
    """Run the aggregator of a scenario, through kills, to the end of the run; its exit code is ours."""

    def work() -> Coroutine[Any, Any, int]:
        _, settings, task_folder = _read(scenario, folder, run)
        return run_aggregator(_places(folder, run), settings, broker_url=broker_url, task_folder=task_folder)

    _do(work)


@part.command()
def device(
    scenario: ScenarioPath,
    group: Annotated[str, typer.Option(help="Of the scenario: it is one of this group that no other process is.")],
    folder: Folder = RUNS,
    run: Run = "compose",
    broker_url: Url = BROKER_URL,
) -> None:
    """Be one device of a scenario, behind a faulty link of its own."""

    def work() -> Coroutine[Any, Any, int]:
        fleet, settings, task_folder = _read(scenario, folder, run)
        if group not in fleet.devices:
            raise ConfigError(
                f"--group {group!r}: no such group of devices",
                where=str(scenario),
                hint=f"there are {', '.join(fleet.devices)}",
            )
        places = _places(folder, run)
        return run_device(places, fleet, settings, group=group, broker_url=broker_url, task_folder=task_folder)

    _do(work)


@part.command()
def chaos(scenario: ScenarioPath, folder: Folder = RUNS, run: Run = "compose") -> None:
    """Do what the scenario's [[faults]] say, from the moment at which every part is there."""

    async def work() -> int:
        fleet, settings, _ = _read(scenario, folder, run)
        places = _places(folder, run)
        devices = [planned.id for planned in fleet.plan()]
        await until_ready(places, devices)
        await carry_out(fleet.faults, devices, seed=settings.seed, on=OverSockets(places.control), log=places.chaos)
        await asyncio.Event().wait()  # what has no more to do stays, so that nobody starts it again
        return 0

    _do(work)


def _read(scenario: Path, folder: Path, run: str) -> tuple[Scenario, Settings, Path]:
    fleet = load_settings(Scenario, scenario)
    for device in fleet.plan():
        if device.is_alone or device.attack is not None:
            raise ConfigError(
                f"devices.{device.group}: containers carry out no faults, absences, attacks or kills of a group",
                where=str(scenario),
                hint="let [[faults]] strike the fleet, or use `python -m simulator rehearse`",
            )
    settings, task_folder = settings_of(fleet, scenario, folder)
    return fleet, settings.model_copy(update={"run": run}), task_folder


def _places(folder: Path, run: str) -> Places:
    places = Places(folder / run)
    places.make()
    return places


def _do(work: Any) -> None:
    """Run a part to its end, or to SIGTERM."""
    set_up_logs("info")
    try:
        code = asyncio.run(_until_signal(work))
    except FederationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, ConfigError) else 1) from error
    raise typer.Exit(code)


async def _until_signal(work: Any) -> int:
    running = asyncio.ensure_future(work())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        code: int = await running
    except asyncio.CancelledError:
        return 0
    return code
