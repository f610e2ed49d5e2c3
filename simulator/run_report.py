"""`python -m simulator report RUN_FOLDER`: what a run came to, and whether its journal and its devices agree.

For a rehearsal and for containers: rounds and their lengths, what became of the updates by class, bytes over the links,
the chaos that was survived, and the check that nothing was lost or counted twice, by what the devices wrote down.

Not here: counting (`outcomes.py`), the promises that are checked (`torture_checks.py`).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_client.files import OnDisk
from edge_client.kept_files import device_folders
from edge_client.outbox import Outbox
from shared.errors import ConfigError, FederationError
from simulator.chaos import ChaosEvent, read_events
from simulator.containers.places import Places
from simulator.outcomes import TRAIN, Outcomes, committed_seconds, outcomes_of
from simulator.torture_checks import Held, Verdict, judge, read_rows
from simulator.torture_notes import read_notes

__all__ = ["RunReport", "report", "report_of"]

OUTBOX = "outbox"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """All of it.

    Args:
        run: its name.
        outcomes: counted from the journal.
        bytes_up: over each link, by device: what it sent.
        bytes_down: likewise, what it received.
        events: of chaos, in order.
        verdict: of the check; None where no device wrote anything down.
    """

    run: str
    outcomes: Outcomes
    bytes_up: dict[str, int]
    bytes_down: dict[str, int]
    events: tuple[ChaosEvent, ...]
    verdict: Verdict | None

    @property
    def is_well(self) -> bool:
        """Whether the run came to its end and nothing was lost or counted twice."""
        return self.outcomes.is_finished and (self.verdict is None or not self.verdict.violations)

    def lines(self) -> list[str]:
        """Return the report for a person."""
        outcomes = self.outcomes
        end = "to its end" if outcomes.is_finished else "NOT to its end"
        abandoned = f", {outcomes.abandoned} abandoned" if outcomes.abandoned else ""
        seconds = sorted(outcomes.seconds) or [0.0]
        return [
            f"Run:      {self.run}, {end}: {outcomes.committed} rounds committed{abandoned}",
            f"Rounds:   median {outcomes.median_s:.1f} s, from {seconds[0]:.1f} to {seconds[-1]:.1f} s",
            *self._classes(),
            f"Traffic:  {_size(sum(self.bytes_up.values()))} up, {_size(sum(self.bytes_down.values()))} down",
            f"Chaos:    {self._chaos()}",
            *self._check(),
        ]

    def _classes(self) -> Iterator[str]:
        for name, each in {**self.outcomes.by_class, "all": self.outcomes.total}.items():
            shares = ", ".join(f"{share:.0%} {how}".replace("_", " ") for how, share in each.shares().items())
            yield f"Leases:   {name}: {each.leases} to {len(each.devices)} devices: {shares}"

    def _chaos(self) -> str:
        if not self.events:
            return "none"
        kinds = Counter(event.kind.replace("_", " ") for event in self.events if not event.failed)
        done = ", ".join(f"{n} x {kind}" for kind, n in kinds.items())
        n_failed = sum(bool(event.failed) for event in self.events)
        return f"{done}; the aggregator started {self.outcomes.starts} times" + (
            f"; {n_failed} missed somebody, who was not there" if n_failed else ""
        )

    def _check(self) -> Iterator[str]:
        if self.verdict is None:
            yield "Check:    none, for no device wrote down what it offered"
            return
        verdict = self.verdict
        counted = f"{verdict.updates} updates offered, {verdict.accepted} counted, {verdict.receipts} receipts"
        if not verdict.violations:
            yield f"Check:    {counted}: nothing lost, nothing counted twice"
            return
        yield f"Check:    {counted}: {len(verdict.violations)} PROMISES BROKEN"
        yield from (f"          {violation}" for violation in verdict.violations)

    def as_json(self) -> str:
        """Return the report for a program."""
        outcomes = self.outcomes
        return json.dumps(
            {
                "run": self.run,
                "is_finished": outcomes.is_finished,
                "committed": outcomes.committed,
                "abandoned": outcomes.abandoned,
                "median_round_s": outcomes.median_s,
                "round_s": list(outcomes.seconds),
                "starts_of_aggregator": outcomes.starts,
                "classes": {
                    name: {"devices": len(each.devices), "leases": each.leases, **each.shares()}
                    for name, each in {**outcomes.by_class, "all": outcomes.total}.items()
                },
                "bytes_up": self.bytes_up,
                "bytes_down": self.bytes_down,
                "chaos": dict(Counter(event.kind for event in self.events if not event.failed)),
                "check": None if self.verdict is None else _verdict_fields(self.verdict),
            }
        )


def _verdict_fields(verdict: Verdict) -> dict[str, Any]:
    return {
        "updates": verdict.updates,
        "accepted": verdict.accepted,
        "receipts": verdict.receipts,
        "violations": verdict.violations,
        "outcomes": dict(verdict.outcomes),
    }


def report_of(run_folder: Path) -> RunReport:
    """Read a run's folder; nobody may write to it meanwhile.

    Raises:
        ConfigError: it is no run's.
    """
    journal = run_folder / "journal.sqlite"
    if not journal.is_file():
        raise ConfigError(
            "there is no journal", where=str(run_folder), hint="name the folder of a run, such as runs/NAME"
        )
    places = Places(run_folder)
    rows = read_rows(journal)
    evaluations = {row.lease for row in rows if row.kind == "lease" and row.body["kind"] != TRAIN}
    written = read_notes(sorted(places.notes.glob("*.jsonl")))
    notes = [note for note in written if note.lease not in evaluations]  # what is promised is promised of updates
    links = {path.stem: json.loads(path.read_text()) for path in sorted(places.links.glob("*.json"))}
    return RunReport(
        run=run_folder.name,
        outcomes=outcomes_of(rows, committed_seconds(run_folder)),
        bytes_up={device: counted["up"] for device, counted in links.items()},
        bytes_down={device: counted["down"] for device, counted in links.items()},
        events=tuple(read_events(places.chaos)),
        verdict=judge(rows, notes, _held(places.devices)) if notes else None,
    )


def _held(devices: Path) -> Iterator[Held]:
    """Yield what devices would find in their outboxes at their next start."""
    for folder in device_folders(devices) if devices.exists() else ():
        box = Outbox(OnDisk(folder / OUTBOX), quota_bytes=2**40, keep_s=1e9)
        box.load()
        for entry in box.entries:
            yield Held(device=folder.name, lease=entry.lease, sha256=entry.report.sha256 or "")


def report(
    run_folder: Annotated[Path, typer.Argument(help="Of a rehearsal, or of `make compose`: runs/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Say what a run came to, and check that nothing was lost or counted twice.

    Exit codes: 0 it came to its end and the check is kept, 1 it did not, 2 there is no such run.
    """
    try:
        found = report_of(run_folder)
    except FederationError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
    for line in [found.as_json()] if as_json else found.lines():
        typer.echo(line)
    raise typer.Exit(0 if found.is_well else 1)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"
