"""`python -m simulator schedules`: crash schedules by the thousand, or one of them by its seed.

Not here: carrying them out (`schedule_pool.py`, `schedule_run.py`).
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer

from shared.errors import ConfigError
from simulator.schedule_pool import verdicts
from simulator.schedule_run import Verdict, carry_out
from simulator.schedules import Schedule

__all__ = ["Tally", "schedules", "seeds_of"]

PROGRESS_EVERY_S = 2.0
_AN_HOUR_S = 3600.0


@dataclass(slots=True)
class Tally:
    """What many schedules came to."""

    n_seeds: int = 0
    n_crashes: int = 0
    n_accepted: int = 0
    virtual_s: float = 0.0
    seconds: float = 0.0
    failed: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        self.n_seeds += 1
        self.n_crashes += verdict.n_crashes
        self.n_accepted += verdict.n_accepted
        self.virtual_s = round(self.virtual_s + verdict.virtual_s, 3)
        if verdict.violations:
            self.failed[verdict.seed] = verdict.violations

    def line(self) -> str:
        """Return it in one line, for people."""
        virtual = f"{self.virtual_s:.0f} virtual seconds"
        if self.virtual_s >= _AN_HOUR_S:
            virtual = f"{self.virtual_s / _AN_HOUR_S:.1f} virtual hours"
        return (
            f"{self.n_seeds} {'schedule' if self.n_seeds == 1 else 'schedules'}, {self.n_crashes} crashes, "
            f"{self.n_accepted} updates counted, {virtual} in {self.seconds:.1f} s: {len(self.failed)} failed"
        )


def schedules(
    seeds: Annotated[str, typer.Option(help="Which, as FIRST:END; END is not among them.")] = "0:1000",
    seed: Annotated[int | None, typer.Option(min=0, help="Replay this one, and tell what happens in it.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 2,
    verbose: Annotated[bool, typer.Option("--verbose", help="With --seed: every message as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Kill whole fleets in virtual time, and look whether anything was lost or counted twice.

    Each seed draws a fleet of at least 8 devices for 5 rounds, at least 3 misbehaviours of the broker and at least 2
    crashes: SIGKILLs and power cuts, at any instant or within a write. The real aggregator and devices run in it, on a
    real journal. At the end every receipt is held against the journal, and the model is made again from it, to the bit,
    as is, with SCAFFOLD and FedDyn, what every device keeps.

    Exit codes: 0 everything held, 1 a schedule failed, 2 the options make no sense.
    """
    try:
        if verbose and (seed is None or as_json):
            raise ConfigError(
                "messages are told of one schedule, for people",
                where="--verbose",
                hint="for example --seed 7 --verbose, without --json",
            )
        wanted = seeds_of(seeds) if seed is None else range(seed, seed + 1)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    if seed is not None and not as_json:
        raise typer.Exit(_replay(seed, verbose=verbose))
    tally = Tally()
    started = shown = time.monotonic()
    for verdict in verdicts(wanted, jobs=min(jobs, len(wanted))):
        tally.add(verdict)
        now = time.monotonic()
        tally.seconds = round(now - started, 1)
        if verdict.violations and not as_json:
            _show(_failure(verdict))
        if now - shown >= PROGRESS_EVERY_S and not as_json:
            shown = now
            typer.echo(f"{tally.n_seeds} of {len(wanted)}, {len(tally.failed)} failed, {tally.seconds:.0f} s", err=True)
    typer.echo(json.dumps(asdict(tally)) if as_json else tally.line())
    raise typer.Exit(1 if tally.failed else 0)


def seeds_of(text: str) -> range:
    """Return the seeds that FIRST:END names.

    Raises:
        ConfigError: it names none.
    """
    first, colon, end = text.partition(":")
    try:
        found = range(int(first), int(end)) if colon else range(int(first))
    except ValueError:
        found = range(0)
    if not found or found.start < 0:
        raise ConfigError(f"{text!r} names no seeds", where="--seeds", hint="for example --seeds 0:1000")
    return found


def _failure(verdict: Verdict) -> Iterator[str]:
    """Yield what went wrong, in what, and how to see it again."""
    yield f"FAILED: {next(lines := Schedule.drawn(verdict.seed).lines())}"
    yield from (f"  {line}" for line in lines)
    yield from (f"  VIOLATION: {violation}" for violation in verdict.violations)
    yield f"  replay: python -m simulator schedules --seed {verdict.seed}"


def _replay(seed: int, *, verbose: bool) -> int:
    schedule = Schedule.drawn(seed)
    _show(schedule.lines())
    verdict = carry_out(schedule, say=typer.echo, tells_messages=verbose)
    typer.echo(
        f"ended after {verdict.virtual_s:.1f} s with {verdict.n_crashes} crashes and {verdict.n_accepted} updates: "
        f"{len(verdict.violations) or 'no'} violations"
    )
    return 1 if verdict.violations else 0


def _show(lines: Iterator[str]) -> None:
    for line in lines:
        typer.echo(line, file=sys.stdout)
