"""`python -m aggregator run | watch | explain | statistics | check | pause | resume | stop | export | repair`.

Exit codes: 0 done, 1 `repair` found damage and changed nothing, 2 what the operator wrote cannot work, 3 the broker
refuses who we are, 4 another process serves the run or the fleet, 130 interrupted.
"""

import asyncio
import dataclasses
import json
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aggregator.config import Settings
from aggregator.lost_journal import refuse_damaged
from aggregator.opening import first_state, resumption, run_name
from aggregator.run_folder import anew_hint
from shared.config import load_settings
from shared.errors import ConfigError
from shared.logs import LogLevel, set_up_logs

if TYPE_CHECKING:
    from types import ModuleType

    from rich.console import RenderableType

    from aggregator.service import RunResult

__all__ = ["app"]

SWITCH_S = 0.001
"""After which a thread that computes gives the event loop its turn: for 5 ms, Python's own, messages would wait."""

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=__doc__)

Toml = Annotated[Path, typer.Argument(help="The run's TOML.", metavar="RUN.toml")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
Level = Annotated[LogLevel, typer.Option(help="What goes to standard error.")]


@app.command()
def run(toml: Toml, as_json: Json = False, log_level: Level = "info") -> None:
    """Serve a run until it is finished. The same name resumes where its journal ends.

    In other terminals: `python -m aggregator watch RUN.toml` shows it live, `pause`, `resume` and `stop` steer it.
    Every key can be overridden: `FEDMQ__STOP__ROUNDS=5 python -m aggregator run RUN.toml`.

    Ctrl-C and SIGTERM end it cleanly; nothing that was accepted is lost.
    """
    set_up_logs(log_level)
    with _explained():
        settings = load_settings(Settings, toml)
        result = asyncio.run(_run(settings, toml.resolve().parent))
        if result is None:
            typer.echo("interrupted: the same command goes on where this ended", err=True)
            raise typer.Exit(130)
        facts = dataclasses.asdict(result)
        if as_json:
            typer.echo(json.dumps(facts, default=str))
            return
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        typer.echo(
            f"{result.run}: finished by {result.cause}, {result.version} versions in {result.rounds} rounds  {metrics}"
        )
        typer.echo("reports: " + "  ".join(f"{state} {n}" for state, n in result.counts.items()))
        if result.left_out:
            typer.echo("left out: " + ", ".join(f"{n} for {reason}" for reason, n in result.left_out.items()))
        for name in ("model", "best", "history", "plot"):
            if facts[name] is not None:
                typer.echo(f"{name:8}{facts[name]}")


@app.command()
def watch(
    toml: Annotated[Path | None, typer.Argument(help="The run's TOML; or give --broker and --fleet.")] = None,
    broker: Annotated[str | None, typer.Option(help="URL, mqtt://host:port.")] = None,
    fleet: Annotated[str | None, typer.Option(help="Name of the fleet.")] = None,
    as_json: Json = False,
    log_level: Level = "warning",
) -> None:
    """Show a fleet live: round, phase, reports against the goal, every device, the metric. Ends with the run.

    A plain MQTT subscriber: it may run anywhere that reaches the broker. On a terminal it draws a table, elsewhere it
    prints a line a change.
    """
    set_up_logs(log_level)
    with _explained():
        from aggregator.watch import watch_fleet

        raise typer.Exit(asyncio.run(watch_fleet(toml, broker, fleet, as_json=as_json)))


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="The run's TOML, or its folder, such as runs/digits.", metavar="RUN")],
    round_id: Annotated[int | None, typer.Argument(help="Only this round: a row a device.", metavar="[ROUND]")] = None,
    device: Annotated[str | None, typer.Option(help="Follow one device through the run.")] = None,
    fairness: Annotated[bool, typer.Option("--fairness", help="Who takes part, by class of device.")] = False,
    metric: Annotated[str, typer.Option(help="Of federated evaluation, for --fairness.")] = "accuracy",
    plot: Annotated[Path | None, typer.Option(help="Also draw --fairness, as a PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Say what became of every lease of a run, where its time went, and why. Works while the run is served.

    A lease is accepted, late (counted with a staleness over 0), discarded, rejected, failed, cancelled, lost (nobody
    had heard of it for too long) or still open. Refused devices said, or were told, that they may not take part.

    Time is waiting (no word of the device yet), download, training, upload (until the verdict) and offline; `?` is
    where nobody saw, such as before a restart of the aggregator.

    `--json`: run, version, finished_by, population; rounds, each with round_id, outcome, version, end, cause, seconds,
    ended_at, goal, quorum, counts, n_selected, n_refused, device_seconds, slowest, slowest_class; with ROUND or
    `--device` also leases and refused; with `--fairness`, in place of rounds, fairness.
    """
    set_up_logs("error")
    with _explained():
        from aggregator.explain import as_json as facts_of
        from aggregator.explain import explain as explained
        from aggregator.explain import folder_of

        if plot is not None and not fairness:
            raise ConfigError("there is a picture of fairness only", where="--plot", hint="add --fairness")
        if fairness and (round_id is not None or device is not None):
            raise ConfigError("fairness is of a whole run", where="--fairness", hint="leave out ROUND and --device")
        found = explained(folder_of(run))
        if fairness:
            from aggregator.fairness import fairness_of

            report = fairness_of(found, metric=metric)
            if plot is not None:
                from aggregator.fairness_plot import save_fairness_plot

                save_fairness_plot(report, plot, title=found.run)
            if as_json:
                typer.echo(json.dumps(facts_of(found, fairness=report)))
                return
            _print(lambda tables: tables.fairness_table(found, report))
            return
        there = [each.round_id for each in found.rounds]
        if round_id is not None and round_id not in there:
            hint = f"there are rounds {there[0]} to {there[-1]}" if there else "no round has begun yet"
            raise ConfigError("there is no such round", where=f"ROUND = {round_id}", hint=hint)
        facts = facts_of(found, round_id=round_id, device=device)
        if device is not None and not facts["rounds"]:
            hint = "`explain RUN ROUND` lists the devices of a round; one that was never given work has no row"
            raise ConfigError("no round concerns this device", where=f"--device {device}", hint=hint)
        if as_json:
            typer.echo(json.dumps(facts))
        elif device is not None:
            _print(lambda tables: tables.device_table(found, device, round_id=round_id))
        elif round_id is not None:
            _print(lambda tables: tables.round_table(found, found.rounds[there.index(round_id)]))
        else:
            _print(lambda tables: tables.rounds_table(found))


@app.command()
def statistics(
    run: Annotated[Path, typer.Argument(help="The run's TOML, or its folder, such as runs/wines.", metavar="RUN")],
    as_json: Json = False,
) -> None:
    """Show what a `StatisticsTask` has counted over the fleet: counts, means, deviations, histograms.

    Of the newest version, that is of the devices whose counts it is made of. Works while the run is served.

    `--json`: run, version, round_id, statistics with n_devices, rows, is_exact, columns.
    """
    set_up_logs("error")
    with _explained():
        from aggregator.statistics_report import read_statistics

        report = read_statistics(run)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(report)))
            return
        from aggregator.statistics_table import statistics_table

        _print(lambda _: statistics_table(report))


@app.command()
def check(toml: Toml, as_json: Json = False) -> None:
    """Read the TOML, load the task, ask it for its model, and say what the run will need. Starts nothing.

    Of a run that would go on it says at which version, what the TOML changes, and from which version on that holds.
    """
    set_up_logs("warning")
    with _explained():
        settings = load_settings(Settings, toml)
        refuse_damaged(settings.output.folder / run_name(settings))
        facts = asyncio.run(_check(settings, toml.resolve().parent))
        typer.echo(json.dumps(facts) if as_json else "\n".join(f"{name:28}{value}" for name, value in facts.items()))


@app.command()
def pause(toml: Toml, as_json: Json = False) -> None:
    """Give out no more work and count no report, until `resume`. Devices keep what they have."""
    _steer(toml, "pause", as_json)


@app.command()
def resume(
    toml: Toml,
    void: Annotated[
        bool, typer.Option("--void", help="Throw away what was accepted for the version being built.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Go on after `pause`, or after an error has been mended."""
    _steer(toml, "resume-void" if void else "resume", as_json)


@app.command()
def stop(toml: Toml, as_json: Json = False) -> None:
    """Finish the run with its last committed version."""
    _steer(toml, "stop", as_json)


@app.command()
def export(
    toml: Toml,
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("model.safetensors"),
    version: Annotated[int | None, typer.Option(min=0, help="Default: the last committed one.")] = None,
    as_json: Json = False,
) -> None:
    """Write a version as safetensors, names as in the model's state_dict: `net.load_state_dict(load_file(OUT))`."""
    with _explained():
        from aggregator.model_store import ModelStore, export

        settings = load_settings(Settings, toml)
        folder = settings.output.folder / run_name(settings) / "versions"
        versions = ModelStore(folder).versions() if folder.is_dir() else []
        if not versions and (folder.parent / "journal.sqlite").exists():
            raise ConfigError("every version is gone", where=str(folder), hint=anew_hint(folder.parent, ()))
        if not versions:
            hint = "python -m aggregator run … makes the first; is output.folder relative to another directory?"
            raise ConfigError("there is no version yet", where=str(folder), hint=hint)
        chosen = versions[-1] if version is None else version
        export(ModelStore(folder).load(chosen), out)
        typer.echo(json.dumps({"version": chosen, "path": str(out)}) if as_json else f"version {chosen}: {out}")


@app.command("repair")
def repair_run(
    folder: Annotated[Path, typer.Argument(help="The run's folder, such as runs/digits.", metavar="RUN_FOLDER")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    discard_after: Annotated[
        int | None,
        typer.Option("--discard-after", help="Give up every row of the journal after this one, and what it said."),
    ] = None,
    void: Annotated[
        bool, typer.Option("--void", help="Give up accepted updates whose file is missing or damaged.")
    ] = False,
    from_newest: Annotated[
        bool,
        typer.Option("--from-newest", help="Give up rows that are lost before the newest version, and go on from it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is damaged in a run that the aggregator refuses, and mend it.

    What costs nothing is done at once: rows that the chain proves, or that an accepted update's file holds a copy of;
    a version that can be made again from its updates, to the bit. What gives something up is named, and done only
    with the option that is named beside it. Everything as it was is copied first, into RUN_FOLDER/before-repair-….

    Begin with `python -m aggregator repair runs/digits --dry-run`. Stop the aggregator first: a run that is served is
    not touched.
    """
    set_up_logs("error")
    with _explained():
        from aggregator.repair import repair

        report = repair(folder, discard_after=discard_after, void=void, from_newest=from_newest, dry_run=dry_run)
        typer.echo(json.dumps(dataclasses.asdict(report), default=str) if as_json else "\n".join(report.lines()))
        if not report.is_whole:
            raise typer.Exit(1)


def _print(picture: "Callable[[ModuleType], RenderableType]") -> None:
    """Draw a table: on a terminal as wide as it is, elsewhere plain and as wide as its lines."""
    from rich.console import Console

    from aggregator import explained_tables

    if sys.stdout.isatty():
        Console().print(picture(explained_tables))
        return
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(picture(explained_tables))
    typer.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the operator can mend into a message and an exit code."""
    try:
        yield
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error


def _steer(toml: Path, word: str, as_json: bool) -> None:
    with _explained():
        from aggregator.operator_socket import ask

        settings = load_settings(Settings, toml)
        reply = ask(settings.output.folder / run_name(settings), word)
        if "error" in reply:
            raise ConfigError(str(reply["error"]))
        line = "{run}: {word} taken in phase {phase}, round {round}, version {version}"
        typer.echo(json.dumps(reply) if as_json else line.format(word=word, **reply))


async def _run(settings: Settings, task_folder: Path) -> "RunResult | None":
    """Serve to the end; None when interrupted."""
    from aggregator.evaluation_process import ProcessEvaluator
    from aggregator.heap import keep_heap_small
    from aggregator.loop_lag import LoopLag
    from aggregator.operator_socket import listening
    from aggregator.plug_ins import load_plug_ins
    from aggregator.service import Aggregator
    from broker.mqtt import MqttTransport
    from shared.blocking import Threads

    keep_heap_small()
    sys.setswitchinterval(SWITCH_S)
    with Threads() as run_blocking:
        aggregator = Aggregator(
            settings,
            None,
            MqttTransport(settings.broker, client_id=f"{settings.fleet}-aggregator-{secrets.token_hex(4)}"),
            evaluator=ProcessEvaluator(settings.task, task_folder, run_blocking),
            run_blocking=run_blocking,
            reachable=listening,
            lag=LoopLag(),
            plug_ins=load_plug_ins(settings, task_folder),
        )
        serving = asyncio.ensure_future(aggregator.run())

        def interrupted() -> None:
            if not aggregator.leave():
                serving.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupted)
        try:
            return await serving
        except asyncio.CancelledError:
            return None


async def _check(settings: Settings, task_folder: Path) -> dict[str, Any]:
    """Return what a run will need, from the task's own model."""
    from aggregator.codec_choice import CodecChoice, one_bit_doubt, sizes_of
    from aggregator.evaluation_process import ProcessEvaluator
    from aggregator.plug_ins import load_plug_ins
    from shared.blocking import Threads

    load_plug_ins(settings, task_folder)
    with Threads() as run_blocking:
        evaluator = ProcessEvaluator(settings.task, task_folder, run_blocking)
        try:
            state = await first_state(settings, evaluator)
        finally:
            await evaluator.close()
    (_, own), spec = state.model, state.spec
    update_bytes = CodecChoice(settings, sizes_of(spec)).usual_bytes
    knobs, rule = settings.round, settings.server.rule
    return {
        "run": run_name(settings),
        "task": settings.task,
        "parameters": own.n_params,
        "spec": own.digest,
        "model_bytes": 4 * spec.n_params,
        "codec": settings.training.codec,
        "update_bytes": update_bytes,
        "update_travels": "inline" if update_bytes <= settings.transfer.inline_bytes else "in chunks",
        "reports_a_round": f"{knobs.quorum_count} to {knobs.report_goal}",
        "rule": rule.name + "".join(f", {key} {each}" for key, each in rule.numbers.items()),
        **({"warning": f"one-bit does not average out: {doubt}"} if (doubt := one_bit_doubt(settings)) else {}),
        "folder": str(settings.output.folder / run_name(settings)),
        **resumption(settings),
    }


if __name__ == "__main__":
    app()
