"""`python -m results`: what learning is worth, computed from scratch, and the page docs/results.md.

Exit codes: 0 done, 1 a run failed, 2 the command line or this machine will not do, 130 interrupted.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from results.case import N_FOLDS, Case, Found, Scale, cases, load_case
from results.computing import Cache, Progress, compute_all
from results.page import page, read_found, write_found
from results.pictures import draw_case
from results.sources import ROOT, digest_of
from shared.errors import ConfigError, FederationError
from shared.logs import set_up_logs

__all__ = ["app"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DOCS = ROOT / "docs"
WORK = ROOT / "results" / ".work"


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="Cases. Default: all.", metavar="[CASE]…")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Seeds 1 to this one.")] = 5,
    folds: Annotated[int, typer.Option(min=1, max=N_FOLDS, help="Folds that are held out in turn.")] = N_FOLDS,
    jobs: Annotated[
        int, typer.Option(min=0, help="Worker processes of one thread each; 0: this one computes.")
    ] = os.cpu_count() or 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, one fold, fewer rounds: to see that it works.")
    ] = False,
    render: Annotated[
        bool, typer.Option("--render", help="Compute nothing: page and pictures from the numbers that are there.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Gets results.md and results/. Default: docs; with --quick: results/.work/quick."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print targets and what was found as JSON.")] = False,
) -> None:
    """Compute cases, and write docs/results.md and its pictures. All of it takes hours on two cores.

    What is finished is kept in results/.work: an interrupted command goes on where it stopped.

    Exit codes: 0 done, 1 a run failed, 2 the command line or this machine will not do, 130 interrupted.
    """
    set_up_logs("error")
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    place = folder or (WORK / "quick" if quick else DOCS)
    scale = Scale(seeds=range(1, 2 if quick else seeds + 1), folds=range(1 if quick else folds), is_quick=quick)
    try:
        chosen = {name: load_case(name) for name in names} if names else cases()
        if not render:
            _compute(chosen, scale, place / "results", jobs, errors)
        found = _write(place, chosen)
    except FederationError as error:
        errors.print(str(error))
        raise typer.Exit(error.exit_code if isinstance(error, ConfigError) else 1) from error
    except KeyboardInterrupt:
        errors.print("interrupted; what is finished is kept, and the same command goes on")
        raise typer.Exit(130) from None
    typer.echo(_as_json(found) if as_json else f"{place / 'results.md'}: {len(found)} cases")


def _compute(chosen: Mapping[str, Case], scale: Scale, folder: Path, jobs: int, errors: Console) -> None:
    sources = {name: digest_of(name, case) for name, case in chosen.items()}
    runs = {name: case.runs(scale) for name, case in chosen.items()}
    with errors.status("") as status:

        def show(progress: Progress) -> None:
            line = f"{progress.n_done} of {progress.n_runs} runs{_left(progress.left_s)}{_last(progress)}"
            if errors.is_terminal:
                status.update(line)
            else:
                errors.print(line)

        everything = [run for of_case in runs.values() for run in of_case]
        numbers = compute_all(everything, sources, Cache(WORK / "runs"), jobs=jobs, show=show)
    for name, of_case in runs.items():
        found = Found(runs=of_case, numbers={run.key(): numbers[run.key()] for run in of_case})
        write_found(folder / f"{name}.json", found, sources[name])


def _write(place: Path, chosen: Mapping[str, Case]) -> dict[str, tuple[Case, Found]]:
    """Write the page of every case that has numbers, and the pictures of those that were chosen."""
    found: dict[str, tuple[Case, Found]] = {}
    for name, case in cases().items():
        path = place / "results" / f"{name}.json"
        if path.exists() or name in chosen:
            found[name] = case, read_found(path)
        if name in chosen:
            draw_case(*found[name], path.with_suffix(".png"))
    (place / "results.md").write_text(page(found), encoding="utf-8")
    return found


def _left(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f", {seconds / 60:.0f} min left" if seconds >= 100 else f", {seconds:.0f} s left"


def _last(progress: Progress) -> str:
    run = progress.last
    if run is None:
        return ""
    options = "".join(f" {name} {value:g}" for name, value in run.options.items())
    return f"; done: {run.case}, {run.arm}{options}, seed {run.seed}, fold {run.fold}"


def _as_json(found: Mapping[str, tuple[Case, Found]]) -> str:
    fields = {
        name: [
            {"target": each.target, "found": each.found, "outcome": each.outcome}
            for each in case.section(of_case).verdicts
        ]
        for name, (case, of_case) in found.items()
    }
    return json.dumps(fields, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    app()
