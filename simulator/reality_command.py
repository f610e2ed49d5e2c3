"""`python -m simulator compare-real SCENARIO.toml`: run one scenario for real and in virtual time, and compare."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ConfigError, FederationError
from simulator.outcomes import Outcomes, read_outcomes
from simulator.reality import Comparison

__all__ = ["compare_real"]


def compare_real(
    scenario: Annotated[Path | None, typer.Argument(help="The fleet's TOML.", metavar="[SCENARIO.toml]")] = None,
    real: Annotated[Path | None, typer.Option(help="Folder of a rehearsal that was run already.")] = None,
    virtual: Annotated[Path | None, typer.Option(help="Folder of a simulated run that was run already.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where new runs lie; default: a folder in runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say how well the simulator foretells a fleet: the same scenario by `rehearse` and by `run`, side by side.

    The rehearsal takes as long as the fleet does. With --real and --virtual, runs that are there already are compared.

    Exit codes: 0 the median round is within 20 % and each share of the leases within 5 points, 1 it is not, or a run
    failed, 2 what the operator wrote cannot work.
    """
    try:
        if scenario is None and (real is None or virtual is None):
            raise ConfigError(
                "nothing to compare", hint="name a scenario, or two runs of it: --real RUN_FOLDER --virtual RUN_FOLDER"
            )
        if folder is None and scenario is not None:
            Path("runs").mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="reality-", dir="runs"))
        sides = [
            read_outcomes(given) if given is not None else _run(word, scenario or Path(), (folder or Path()) / name)
            for word, given, name in (("run", virtual, "virtual"), ("rehearse", real, "real"))
        ]
    except FederationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, ConfigError) else 1) from error
    compared = Comparison(virtual=sides[0], real=sides[1])
    for line in [compared.as_json()] if as_json else compared.lines():
        typer.echo(line)
    raise typer.Exit(0 if compared.is_within else 1)


def _run(word: str, scenario: Path, folder: Path) -> Outcomes:
    """Run a command of the simulator, and read what it leaves.

    Raises:
        ConfigError: it says that the scenario cannot work.
        FederationError: it failed.
    """
    command = [sys.executable, "-m", "simulator", word, str(scenario), "--json", "--folder", str(folder)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        kind = ConfigError if ended.returncode == ConfigError.exit_code else FederationError
        raise kind(f"`simulator {word}` ended with exit code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
    (run_folder,) = [path.parent for path in folder.glob("*/journal.sqlite")]
    return read_outcomes(run_folder)
