"""`python -m edge_client outbox`: what devices of this machine hold, and the way out for what is damaged.

Not here: what is done (`kept_files.py`).
"""

import json as json_lines
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from edge_client.config import EdgeSettings
from edge_client.kept_files import KeptFile, Kind, device_folders, discard, kept_files, retry
from shared.config import load_settings
from shared.errors import ConfigError

__all__ = ["outbox"]

outbox = typer.Typer(
    help="""What devices of this machine hold: finished reports without an outcome, and damaged files.

    A report is offered by itself until its outcome has come; nobody has to do anything. A file that is damaged is set
    aside and named in the log: `retry` puts it back once it is whole again, `discard` ends the matter. The lease of a
    discarded report is free: the aggregator may give the work again.

    Exit codes: 0 done; 2 there is no such file, or it is damaged still; 4 the device runs: stop it first.""",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path | None, typer.Option(help="One device's folder, or the one that holds them all.")]
Name = Annotated[str, typer.Argument(help="As `list` shows it: the lease of a report, the run of a local state.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@outbox.command("list")
def list_files(folder: Folder = None, json: Json = False) -> None:
    """Show every report that is held and every file that is set aside; the device may run meanwhile."""
    with _refusing():
        files = [file for device in device_folders(_root(folder)) for file in kept_files(device)]
        for file in files:
            typer.echo(json_lines.dumps(_record(file)) if json else _line(file))
        if not files and not json:
            typer.echo("nothing is held, and nothing is damaged")


@outbox.command("discard")
def discard_file(name: Name, folder: Folder = None, json: Json = False) -> None:
    """Delete a report, or a file that is set aside, for good; the device must not run."""
    _act(discard, "discarded", name, folder, json)


@outbox.command("retry")
def retry_file(name: Name, folder: Folder = None, json: Json = False) -> None:
    """Put a file that was set aside back to use, if it is whole by now; the device must not run."""
    _act(retry, "put back", name, folder, json)


def _act(act: Callable[[KeptFile], None], done: str, name: str, folder: Path | None, json: bool) -> None:
    with _refusing():
        file = _the_one(name, _root(folder))
        act(file)
        typer.echo(json_lines.dumps({**_record(file), "done": done}) if json else f"{done}: {_line(file)}")


def _the_one(name: str, folder: Path) -> KeptFile:
    """Return the file of this name; one that is damaged comes before a report.

    Raises:
        ConfigError: there is none, or several devices have one.
    """
    found = [file for device in device_folders(folder) for file in kept_files(device) if file.name == name]
    if not found:
        raise ConfigError(f"nothing is called {name!r}", where=str(folder), hint="`outbox list` shows what there is")
    if len({file.device for file in found}) > 1:
        raise ConfigError(
            f"several devices have {name!r}", where=str(folder), hint=f"say which: --folder {found[0].device}"
        )
    return found[0]


def _root(folder: Path | None) -> Path:
    return load_settings(EdgeSettings, None, {"folder": str(folder) if folder else None}).folder.expanduser()


def _record(file: KeptFile) -> dict[str, object]:
    return {
        "name": file.name,
        "kind": str(file.kind),
        "run": file.run,
        "n_bytes": file.n_bytes,
        "stored_at": _instant(file),
        "cause": file.cause,
        "path": str(file.path),
        "device_folder": str(file.device),
    }


def _line(file: KeptFile) -> str:
    run = f"run {file.run}, " if file.run and file.kind is not Kind.DAMAGED_STATE else ""
    condition = "" if file.kind is Kind.REPORT else f": {file.cause or 'whole by now, retry puts it back'}"
    return f"{file.name}  {file.kind}, {run}{file.n_bytes} bytes, {_instant(file)}, {file.device}{condition}"


def _instant(file: KeptFile) -> str:
    return datetime.fromtimestamp(file.stored_at, UTC).isoformat(timespec="seconds")


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
