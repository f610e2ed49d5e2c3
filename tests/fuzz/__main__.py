"""`python -m tests.fuzz`: hostile payloads on every topic, both ways, until something breaks.

Exit codes: 0 every promise held, 1 one did not, 2 what was asked for cannot work, 130 interrupted.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from shared.errors import ConfigError
from tests.fuzz.running import LIFE, Found, fuzz

__all__ = ["app"]

P999_S = 0.005
RSS_GROWTH = 64 * 2**20
"""What the payloads of one run may add, in bytes."""
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def main(
    n: Annotated[int, typer.Option("--n", min=1, help="How many payloads.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Decides every payload.")] = 1,
    first: Annotated[
        int, typer.Option("--from", min=0, help="Begin at this payload, a multiple of --life. A failure names it.")
    ] = 0,
    life: Annotated[
        int, typer.Option(min=1, help="Payloads until aggregator and device are made anew. A replay takes one life.")
    ] = LIFE,
    folder: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Where part files go. Default: a temporary folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Send hostile payloads to a real aggregator and a real device, and hold them to their promises.

    Valid messages are spoilt field by field: wrong types, bounds, NaN, huge numbers, deep nesting, keys twice, texts
    that steer terminals; bytes are cut and turned over, topics take a segment more or less. Chunks come with a wrong
    index or length or for somebody else's lease, updates hold NaN or are far too long, models have indexes that say
    what they should not. Seven of ten payloads go to the aggregator, the rest to the device; about half are honest,
    so that rounds go on and every state is met.

    Fails at the first exception that nobody expected, when a bound on what is kept does not hold, when a payload is
    computed for five seconds, when p99.9 is over 5 ms, or when memory grows by more than 64 MiB. Time is that of
    computing, in virtual time, without a disk: how busy the machine is does not matter.
    """
    bar = Progress(n, is_silent=as_json)
    try:
        found = fuzz(n, seed, first=first, life=life, folder=folder, say=bar.say)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    bar.end()
    broken = misses(found)
    if as_json:
        typer.echo(json.dumps(summary(found, seed, broken)))
    else:
        for line in [*lines(found, seed), *broken]:
            typer.echo(line)
    if found.failure is not None and not as_json:
        replay = ["python", "-m", "tests.fuzz", "--seed", str(seed), *_place_of(found.failure.index, life)]
        typer.echo("\n".join([*found.failure.lines(), "", f"replay: {shlex.join(replay)}"]))
    raise typer.Exit(1 if broken or found.failure is not None else 0)


class Progress:
    """One line on a terminal, rewritten; nothing elsewhere.

    Args:
        n: payloads in all.
        is_silent: whether nothing is said even there.
    """

    def __init__(self, n: int, *, is_silent: bool) -> None:
        self._n = n
        self._console = Console(stderr=True)
        self._is_shown = self._console.is_terminal and not is_silent

    def say(self, found: Found) -> None:
        """Show how far it is."""
        if self._is_shown:
            print(f"\r{found.n:,} of {self._n:,} payloads", end="", file=sys.stderr, flush=True)  # noqa: T201

    def end(self) -> None:
        """Leave the line."""
        if self._is_shown:
            print(file=sys.stderr)  # noqa: T201


def misses(found: Found) -> list[str]:
    """Return which ceilings do not hold."""
    over = []
    if (p999_s := found.quantile_s(QUANTILES["p99.9"])) > P999_S:
        over.append(f"MISSED: p99.9 is {p999_s * 1e3:.2f} ms, {P999_S * 1e3:g} ms is the ceiling")
    if found.rss_growth > RSS_GROWTH:
        over.append(f"MISSED: memory grew by {found.rss_growth / 2**20:.1f} MiB, {RSS_GROWTH >> 20} MiB is the ceiling")
    return over


def summary(found: Found, seed: int, broken: list[str]) -> dict[str, Any]:
    """Return the result for scripts."""
    failure = found.failure
    return {
        "seed": seed,
        "payloads": found.n,
        "seconds": round(found.seconds, 1),
        "payloads_per_s": round(found.n / found.seconds) if found.seconds else 0,
        "ms": {name: round(found.quantile_s(share) * 1e3, 3) for name, share in QUANTILES.items()},
        "rss_growth_bytes": found.rss_growth,
        "counts": dict(found.counts.most_common()),
        "missed": broken,
        "failure": None if failure is None else {"index": failure.index, "lines": failure.lines()},
    }


def lines(found: Found, seed: int) -> list[str]:
    """Return the result for people."""
    times = "  ".join(f"{name} {found.quantile_s(share) * 1e3:.2f} ms" for name, share in QUANTILES.items())
    head = f"{found.n:,} payloads of seed {seed} in {found.seconds:.0f} s, {found.n / found.seconds:,.0f} a second"
    rows = [f"  {count:>9,}  {name}" for name, count in found.counts.most_common()]
    return [head, f"computing a payload: {times}", f"memory grew by {found.rss_growth / 2**20:.1f} MiB", *rows]


def _place_of(index: int, life: int) -> list[str]:
    """Return the options that replay the life of a payload, up to it."""
    first = index - index % life
    here = ["--from", str(first), "--n", str(index - first + 1)]
    return here if life == LIFE else [*here, "--life", str(life)]


if __name__ == "__main__":
    app()
