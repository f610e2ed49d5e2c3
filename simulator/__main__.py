"""`python -m simulator run | rehearse | torture | schedules`: whole fleets on one machine, for real or in virtual time.

Exit codes: 0 the run finished or every promise was kept, 1 a process failed, the time was up or a promise was broken,
2 what the operator wrote cannot work, 130 interrupted (143 by SIGTERM).
"""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from broker.server.choice import KindChoice
from shared.config import load_settings
from shared.errors import ConfigError, FederationError
from shared.logs import LogLevel, set_up_logs
from simulator.containers.command import part
from simulator.reality_command import compare_real
from simulator.rehearsal import Rehearsal
from simulator.run_report import report
from simulator.run_settings import settings_of
from simulator.runs.command import run
from simulator.scenario import Scenario
from simulator.scenarios.trace_files import read_traces
from simulator.schedule_command import schedules
from simulator.summary import Summary
from simulator.torture_command import torture
from simulator.view import View

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown")

app.command()(run)
app.command()(torture)
app.command()(schedules)
app.command()(report)
app.command("compare-real")(compare_real)
app.add_typer(part, name="part")


@app.callback()
def main() -> None:
    """Whole fleets on one machine."""


@app.command()
def rehearse(
    scenario: Annotated[Path, typer.Argument(help="The fleet's TOML.", metavar="SCENARIO.toml")],
    kind: Annotated[
        KindChoice, typer.Option(help="Which broker. auto: Mosquitto, or the embedded one where there is none.")
    ] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the run and of every link.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Each run gets a folder of its own in it. Default: runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="A line a change instead of the live table.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What goes to standard error.")] = "warning",
) -> None:
    """Start a broker, an aggregator and a fleet of devices behind bad links, and watch them learn.

    Everything runs on this machine, on free ports of 127.0.0.1, and ends with this command. The logs of every process
    lie in the run's folder. Ctrl-C ends everybody.
    """
    set_up_logs(log_level)
    try:
        fleet = load_settings(Scenario, scenario, {"seed": seed})
        fleet.check_rehearsable()
        settings, task_folder = settings_of(fleet, scenario, folder)
        view = View(settings.fleet, is_live=not plain, is_silent=as_json)
        traces = read_traces(fleet, scenario.parent)
        rehearsal = Rehearsal(
            fleet, settings, task_folder=task_folder, traces=traces, kind=kind, say=view.say, watch=view.watch
        )
        summary, code = asyncio.run(_until_signal(rehearsal))
    except FederationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code if isinstance(error, ConfigError) else 1) from error
    if summary is None:
        typer.echo("interrupted; every process has ended", err=True)
        raise typer.Exit(code)
    for line in [summary.as_json()] if as_json else summary.lines():
        typer.echo(line)


async def _until_signal(rehearsal: Rehearsal) -> tuple[Summary | None, int]:
    """Run it; (None, exit code) when SIGINT or SIGTERM came first."""
    running = asyncio.ensure_future(rehearsal.run())
    came: list[int] = []

    def end(number: signal.Signals) -> None:
        came.append(128 + number)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await running, 0
    except asyncio.CancelledError:
        return None, came[0]


if __name__ == "__main__":
    app()
