"""`python -m bench`: what a round costs. First version: ours alone."""

import asyncio
import shutil
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from bench.cases import GRID, MIB, Case
from bench.ours import Ours
from bench.process_costs import check_proc
from bench.turn import Setting
from shared.logs import set_up_logs

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cases: Annotated[str, typer.Option(help="Which, for example 10x1MiB,50x10MiB.")] = ",".join(map(str, GRID)),
    only: Annotated[str, typer.Option(help="Which contenders.")] = "ours",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are measured in each turn.")] = 5,
    processes: Annotated[int, typer.Option(min=1, help="Client processes.")] = 2,
    folder: Annotated[Path, typer.Option(help="Where turns write.")] = Path("bench/.work"),
    keep: Annotated[bool, typer.Option("--keep")] = False,
) -> None:
    """Measure."""
    set_up_logs("warning")
    check_proc()
    folder.mkdir(parents=True, exist_ok=True)
    for case in map(Case.parse, cases.split(",")):
        place = Path(tempfile.mkdtemp(prefix=f"{case}-", dir=folder))
        setting = Setting(case=case, n_rounds=rounds, n_processes=processes, folder=place / "ours")
        turn = asyncio.run(Ours().turn(setting, partial(_say, case)))
        seconds, n_updates = median(turn.round_s), rounds * case.n_devices
        typer.echo(
            f"{case}: {seconds:.3f} s a round, {case.moved_bytes / seconds / 1e6:.0f} MB/s, CPU an update: aggregator "
            f"{1e3 * turn.server_cpu_s / n_updates:.1f} ms + broker {1e3 * turn.broker_cpu_s / n_updates:.1f} ms, "
            f"peak RSS: {turn.server_rss / MIB:.0f} + {turn.broker_rss / MIB:.0f} MiB"
        )
        if not keep:
            shutil.rmtree(place)


def _say(case: Case, line: str) -> None:
    typer.echo(f"{case} ours: {line}", err=True)


if __name__ == "__main__":
    app()
