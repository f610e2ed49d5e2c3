"""`python -m bench`: what a round costs, ours beside Flower's gRPC server and beside the bare pipe; and what it makes.

Exit codes: 0 measured, 1 a contender failed, 2 the command line or this machine will not do, 130 interrupted.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.markdown import Markdown

from bench.cases import GRID, Case
from bench.children import ROOT
from bench.fleet_turns import FleetPlan, measure_fleets
from bench.fleets import FLEETS, FleetFigures
from bench.flower.contender import Flower
from bench.flower.environment import SIMULATION, flower_python, pinned_version
from bench.ours import Ours
from bench.pipe.contender import Pipe
from bench.process_costs import check_proc
from bench.report import Report, arrangement, machine
from bench.strategies import TARGET, Comparison
from bench.strategy_runs import compare_strategies
from bench.turn import Contender, ContenderName, Say, Turn
from bench.turn_taking import Plan, take_turns
from broker.server.mosquitto import find_mosquitto
from shared.errors import ConfigError, FederationError
from shared.logs import set_up_logs

__all__ = ["app"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

RESULTS = ROOT / "bench" / "results"
STRATEGIES = "strategies"
CONTENDERS: tuple[ContenderName, ...] = get_args(ContenderName)


@app.command()
def main(
    cases: Annotated[
        str,
        typer.Option(help=f"Devices x model, with commas: 10x1MiB,2x64KiB; and {', '.join([*FLEETS, STRATEGIES])}."),
    ] = ",".join(map(str, (*GRID, *FLEETS, STRATEGIES))),
    only: Annotated[str, typer.Option(help="Contenders, with commas, in this order.")] = ",".join(CONTENDERS),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds measured in a turn; one before and one after.")] = 5,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each contender in each case.")] = 3,
    processes: Annotated[int, typer.Option(min=1, help="Among which the devices are divided, for everybody.")] = 2,
    folder: Annotated[
        Path, typer.Option(help="Below it turns write what is durable: on a real disk, not in memory.")
    ] = ROOT / "bench" / ".work",
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Keep what turns write, logs included.")] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Save the tables in bench/results, as Markdown and JSON.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every turn as it was measured.")] = False,
) -> None:
    """Measure rounds: K devices fetch a model of S bytes, add one to it and send it back. No learning.

    **ours** is everything a user gets: Mosquitto, `python -m aggregator run`, real devices, every update durable
    before its receipt; updates travel as float32, as everybody else's do. **int8** is the same with updates in int8, a
    quarter of the bytes up; its MB/s, too, are those of float32. **undigested** is ours almost without sha-256, which
    shows what that costs. **flower** is Flower's gRPC server, in an environment of its own (.venv-flower, made at the
    first use, which needs the network); nothing is durable there. **pipe** is aiomqtt, Mosquitto, aiomqtt with the same
    chunks, and nothing else.

    **simulation** is a thousand simulated devices with a model of 4 KiB, ours in virtual time beside Flower's on Ray
    (.venv-flower-simulation); **fleet-10k** and **fleet-50k** are ours alone, with a linear model of scikit-learn's
    digits.

    **strategies** measures no time: the models that Flower's server strategies make of given updates, and ours make of
    the same, and how far apart they are. It fails when that is more than what each strategy is known to do otherwise.

    They take turns on this machine, which should have nothing else to do. All of it takes about an hour;
    `python -m bench --only ours,flower --cases 10x10MiB --turns 1` takes a minute.

    Exit codes: 0 measured, 1 a contender failed, 2 the command line or this machine will not do, 130 interrupted.
    """
    set_up_logs("warning")
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    results: dict[Case, dict[ContenderName, list[Turn]]] = {}
    fleets: dict[str, dict[str, list[FleetFigures]]] = {}
    strategies: list[Comparison] = []
    begun, code = datetime.now(UTC), 0
    names = [text.strip() for text in cases.split(",")]

    def done(case: Case, name: ContenderName, turn: Turn) -> None:
        results.setdefault(case, {}).setdefault(name, []).append(turn)

    def fleet_done(case: str, contender: str, figures: FleetFigures) -> None:
        fleets.setdefault(case, {}).setdefault(contender, []).append(figures)

    async def measure(grid: list[Case]) -> None:
        plan = Plan(
            cases=grid,
            contenders=await _contenders(only.split(","), errors.print),
            n_turns=turns,
            n_rounds=rounds,
            n_processes=processes,
            folder=folder,
            keep_files=keep_files,
        )
        with errors.status("") as status:
            await take_turns(plan, done, live=status.update, say=errors.print)

    async def measure_all(grid: list[Case]) -> None:
        if grid:
            await measure(grid)
        chosen = [FLEETS[name] for name in names if name in FLEETS]
        wanted = [name for name in CONTENDERS if name in map(str.strip, only.split(","))]
        is_flower_wanted = "flower" in wanted and any(case.with_flower for case in chosen)
        fleet_plan = FleetPlan(
            cases=chosen,
            contenders=wanted,
            flower=await _flower_simulation(errors.print) if is_flower_wanted else None,
            n_turns=turns,
            folder=folder,
            keep_files=keep_files,
        )
        with errors.status("simulated fleets"):
            await measure_fleets(fleet_plan, fleet_done, errors.print)
        if STRATEGIES in names:
            python = await flower_python(ROOT / ".venv-flower", errors.print)
            strategies.extend(await compare_strategies(python, folder, errors.print))
            if too_far := [each.name for each in strategies if each.apart["departing"] > TARGET]:
                raise FederationError(f"further from Flower's than {TARGET:g}: {', '.join(too_far)}")

    try:
        check_proc()
        grid = [Case.parse(name) for name in names if name not in FLEETS and name != STRATEGIES]
        if grid and find_mosquitto() is None:
            raise ConfigError("there is no mosquitto on this machine", hint="Debian, Ubuntu: apt install mosquitto")
        asyncio.run(measure_all(grid))
    except FederationError as error:
        errors.print(str(error))
        code = error.exit_code if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        errors.print("interrupted; every process has ended")
        code = 130
    if results or fleets or strategies:
        sentences = arrangement(n_turns=turns, n_rounds=rounds, n_processes=processes, flower=pinned_version())
        report = Report(
            at=begun, arrangement=sentences, machine=machine(), results=results, fleets=fleets, strategies=strategies
        )
        if as_json:
            typer.echo(report.as_json())
        else:
            _show(report)
        if save:
            errors.print(f"saved: {report.save(RESULTS)} and .json")
    raise typer.Exit(code)


async def _contenders(names: Sequence[str], say: Say) -> list[Contender]:
    """Return who is to be measured; without Flower, said so, where it cannot be installed.

    Raises:
        ConfigError: there is no contender of such a name, or nobody is left.
    """
    found: list[Contender] = []
    for name in names:
        match name.strip():
            case "ours" | "int8" | "undigested" as ours:
                found.append(Ours(ours))
            case "pipe":
                found.append(Pipe())
            case "flower":
                try:
                    found.append(Flower(await flower_python(ROOT / ".venv-flower", say)))
                except ConfigError as error:
                    say(f"without Flower, which cannot be installed: {error}")
            case _:
                raise ConfigError(f"--only {name!r}: there is no such contender; there are {', '.join(CONTENDERS)}")
    if not found:
        raise ConfigError("nobody is left to be measured", hint=f"--only takes {', '.join(CONTENDERS)}")
    return found


async def _flower_simulation(say: Say) -> Path | None:
    try:
        return await flower_python(ROOT / ".venv-flower-simulation", say, SIMULATION)
    except ConfigError as error:
        say(f"without Flower's simulation, which cannot be installed: {error}")
        return None


def _show(report: Report) -> None:
    text, console = report.as_markdown(), Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text)


if __name__ == "__main__":
    app()
