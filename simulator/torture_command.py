"""`python -m simulator torture`: kill everything over and over, on this machine, and count whether anything is lost.

Not here: doing it (`torture.py`).
"""

import asyncio
import contextlib
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import ConfigError, FederationError
from shared.logs import LogLevel, set_up_logs
from simulator.torture import SHORT, TALLY, Limits, Torture
from simulator.torture_plan import Scale
from simulator.torture_tally import Tally

__all__ = ["seconds_of", "torture"]

UPDATES, AGGREGATORS, BROKERS = 100_000, 1000, 200
"""The long form: so many updates, and at least so many SIGKILLs of aggregators and brokers."""
SHORT_S, SHORT_RUNS = 66.0, 3
"""The short form, with one run of each kind; judging the last takes another second."""
SHOW_EVERY_S = 1.0
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_CLEAR_LINE = "\r\x1b[K"


def torture(
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End this sitting after 90s, 40m or 2h.")
    ] = None,
    until_updates: Annotated[
        int, typer.Option(min=1, help="The torture is over when its tally has so many updates.")
    ] = UPDATES,
    short: Annotated[
        bool, typer.Option("--short", help="About a minute, more kills than updates, with a tally of its own.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of a new tally. Default: 1.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="For the tally and runs that broke a promise. Default: runs/torture; --short: temporary."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tally as JSON, and nothing else.")] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What goes to standard error.")] = "error",
) -> None:
    """Kill brokers, aggregators and devices, over and over: no update may be lost, none counted twice.

    A real Mosquitto that forgets everything when killed and drops what it cannot queue; the real aggregator, killed at
    random instants and at each step of its work, with torn tails, a full disk, rivals and a clock that jumps by days;
    72 real devices in processes that are killed, some behind links that flap, stall or trickle. After each run the
    journal, the model and what the devices wrote down must tell the same story.

    It goes on where the last sitting stopped: the sums are in FOLDER/tally.json. It ends when 100,000 updates,
    1,000 killed aggregators and 200 killed brokers are counted, at --for, at Ctrl-C, or with the first run that breaks
    a promise, whose files are kept: `sqlite3 FOLDER/run-…/aggregator/run-…/journal.sqlite`, `FOLDER/run-…/notes`
    (what each device saw, in order) and `FOLDER/run-…/logs`.

    Exit codes: 0 no promise was broken, 1 one was, 2 there is no Mosquitto or a setting is wrong, 130 interrupted.
    """
    set_up_logs(log_level)
    try:
        seconds = None if for_ is None else seconds_of(for_)
        place = folder or (Path(tempfile.mkdtemp(prefix="fedmq-torture-")) if short else Path("runs/torture"))
        tally = Tally.load(place / TALLY, seed)
        if short:
            limits = Limits(seconds=min(seconds or SHORT_S, SHORT_S), runs=SHORT_RUNS, run_seconds=SHORT_S / SHORT_RUNS)
        else:
            limits = Limits(seconds=seconds, updates=until_updates, aggregators=AGGREGATORS, brokers=BROKERS)
        ours = Torture(place, tally, SHORT if short else Scale(), _silent if as_json else typer.echo)
        signalled = asyncio.run(_until_signal(ours, limits, is_shown=not as_json and sys.stderr.isatty()))
    except FederationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code if isinstance(error, ConfigError) else 1) from error
    for line in [tally.model_dump_json(indent=2)] if as_json else tally.lines():
        typer.echo(line)
    if tally.violations:
        raise typer.Exit(1)
    if short and folder is None:
        shutil.rmtree(place, ignore_errors=True)
    if signalled:
        raise typer.Exit(128 + signalled)


def seconds_of(text: str) -> float:
    """Return how many seconds 90, 90s, 40m or 2h are.

    Raises:
        ConfigError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or not float(match[1]):
        raise ConfigError(f"--for {text!r} is no time", hint="write 90s, 40m or 2h")
    return float(match[1]) * _UNITS[match[2]]


async def _until_signal(ours: Torture, limits: Limits, *, is_shown: bool) -> int:
    """Run it; return the number of the signal that ended it early, 0 when none did."""
    stop, came = asyncio.Event(), [0]

    def end(number: signal.Signals) -> None:
        came[0] = number
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    showing = asyncio.create_task(_show(ours)) if is_shown else None
    try:
        await ours.run(limits, stop)
    finally:
        if showing is not None:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
    return came[0]


async def _show(ours: Torture) -> None:
    """Keep a line on the terminal that says what is going on."""
    try:
        while True:
            typer.echo(f"{_CLEAR_LINE}{ours.progress()}", nl=False, err=True)
            await asyncio.sleep(SHOW_EVERY_S)
    finally:
        typer.echo(_CLEAR_LINE, nl=False, err=True)


def _silent(line: str) -> None:
    del line
