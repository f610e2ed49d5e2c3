"""`python -m simulator run`: a whole fleet in virtual time, on this machine, with the code that runs on the devices."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from aggregator.codec_choice import one_bit_doubt
from shared.config import load_settings
from shared.errors import ConfigError, FederationError
from shared.logs import LogLevel, set_up_logs
from shared.task import load_task
from simulator.run_settings import settings_of
from simulator.runs.comparison import Comparison
from simulator.runs.executors import Executor, Inline, Processes
from simulator.runs.pictures import draw_report
from simulator.runs.progress import Progress
from simulator.runs.report import Report, report_of
from simulator.runs.scratch import scratch
from simulator.runs.simulation import INTERRUPTED, LIMIT, Simulation
from simulator.scenario import Executor as ExecutorName
from simulator.scenario import Scenario
from simulator.scenarios.trace_files import read_traces
from simulator.virtual_time import run_in_virtual_time

__all__ = ["run"]

INTERRUPTED_CODE = 130
PICTURES = ("learning.png", "rounds.png")
NO_PICTURES = "output.plot is false, no round has ended, or matplotlib is not installed (pip install 'fedmq[plot]')"


def run(
    scenarios: Annotated[list[Path], typer.Argument(help="The fleet's TOML.", metavar="SCENARIO.toml")],
    seed: Annotated[int | None, typer.Option(min=0, help="Of the run, and of all that befalls the fleet.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Each run gets a folder of its own in it. Default: runs.")] = None,
    executor: Annotated[
        ExecutorName | None, typer.Option(help="Where trainings are computed; the result is the same to the bit.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run several scenarios, and draw them side by side.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and nothing else.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live one.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What goes to standard error.")] = "error",
) -> None:
    """Run a fleet in virtual time: the real services on a broker in memory, an hour of them in seconds.

    Training is real, its duration is that of the device's class. The run's folder gets report.json and pictures beside
    the model, the journal and the history. Ctrl-C ends it with what there is. --compare a.toml b.toml runs one after
    the other, and draws their curves over virtual time, bytes and device-seconds.

    Exit codes: 0 the run finished, 1 its time was up or something broke, 2 the scenario cannot work, 130 interrupted.
    """
    set_up_logs(log_level)
    reports: list[Report] = []
    try:
        if compare != (len(scenarios) > 1):
            raise ConfigError("several scenarios are run with --compare, and --compare needs several")
        for path in scenarios:
            reports.append(
                simulate(path, seed=seed, folder=folder, executor=executor, is_silent=as_json, is_live=not plain)
            )
            if reports[-1].fields["cause"] == INTERRUPTED:
                break
            if compare and not as_json:
                typer.echo(f"{path.name}: {reports[-1].folder}")
        compared = Comparison(reports) if compare else None
    except FederationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code if isinstance(error, ConfigError) else 1) from error
    if compared is None:
        _print(reports[0], as_json=as_json)
    else:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        paths = compared.save(reports[0].folder.parent / f"compare-{stamp}")
        lines = [json.dumps(compared.fields())] if as_json else [*compared.lines(), *map(str, paths)]
        for line in lines:
            typer.echo(line)
    causes = {report.fields["cause"] for report in reports}
    if INTERRUPTED in causes:
        raise typer.Exit(INTERRUPTED_CODE)
    if LIMIT in causes:
        raise typer.Exit(1)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.as_json())
        return
    pictures = [str(path) for name in PICTURES if (path := report.folder / name).exists()]
    for line in report.lines():
        typer.echo(line)
    typer.echo(f"Report:   {report.folder / 'report.json'}")
    typer.echo(f"Pictures: {', '.join(pictures) or 'none: ' + NO_PICTURES}")


def simulate(
    path: Path,
    *,
    seed: int | None = None,
    folder: Path | None = None,
    executor: ExecutorName | None = None,
    is_silent: bool = True,
    is_live: bool = False,
) -> Report:
    """Run one scenario and write its report.

    Args:
        path: of the scenario.
        seed: in place of the scenario's.
        folder: where runs lie, in place of the settings' own.
        executor: in place of the scenario's.
        is_silent: whether nothing is shown meanwhile.
        is_live: whether a terminal may be drawn on.

    Raises:
        FederationError: what the operator wrote cannot work, or something broke.
    """
    scenario = load_settings(Scenario, path, {"seed": seed, "executor": executor})
    traces = read_traces(scenario, path.parent)
    settings, task_folder = settings_of(scenario, path, folder)
    task = load_task(settings.task, task_folder)
    progress = Progress(settings.stop, scenario.virtual_limit_s, is_live=is_live, is_silent=is_silent)
    if (doubt := one_bit_doubt(settings)) is not None:
        progress.say(f"training.codec = one-bit does not average out: {doubt}")
    with scratch(settings) as (inside, final), _ended_by_sigterm():
        computing: Executor = Processes(settings.task, task_folder) if scenario.has_processes else Inline(task)
        with computing, progress:
            simulation = Simulation(
                scenario,
                inside,
                task,
                traces,
                computing,
                say=progress.say,
                show=progress.show,
                beside=task_folder,
            )
            simulated = run_in_virtual_time(simulation.run())
    report = report_of(simulated, scenario, settings, final, executor=scenario.executor, file=path)
    report.save()
    if settings.output.plot:
        draw_report(report)
    return report


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: the loop's runner cancels what runs."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
