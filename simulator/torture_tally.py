"""The tally of a torture: what has happened so far, over as many sittings as it takes. One JSON file.

Written as a whole after every run, under another name and then renamed, so that a torture that is itself killed goes on
from its last whole run.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigError
from simulator.torture_checks import Verdict

__all__ = ["Tally", "Violation"]


SHOWN_VIOLATIONS = 20
"""Of one run: one cause often shows in every update after it."""
_HOW_TO_LOOK = """\
  how to look, in such a folder:
    sqlite3 aggregator/run-*/journal.sqlite "select seq, kind, lease, body from journal"
    grep LEASE notes/*.jsonl      what the device saw, in its order
    less logs/aggregator.log      every life of the aggregator"""


class Violation(BaseModel):
    """One promise that was broken, and how to look at it."""

    model_config = ConfigDict(extra="forbid")

    run: int
    """Index of the run, with the tally's seed the whole name of it."""
    what: str
    folder: str
    """Everything of that run: journal, updates, versions, outboxes, notes and logs."""


class Tally(BaseModel):
    """Sums over all sittings. Mutable; to be saved."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    """Of all plans; run i of a seed is always planned alike."""
    runs: int = 0
    versions: int = 0
    updates: int = 0
    """Trained by a device and durable in its outbox."""
    accepted: int = 0
    """ACCEPT rows: counted in a model exactly once."""
    receipts: int = 0
    """Final outcomes that reached the device, repeated ones included."""
    outcomes: Counter[str] = Field(default_factory=Counter)
    """Updates by what became of them: an outcome with its reason, or where they still are."""
    kills: Counter[str] = Field(default_factory=Counter)
    """By kind; `aggregator: …`, `broker`, `devices`."""
    faults: Counter[str] = Field(default_factory=Counter)
    """What else was done, by kind."""
    seconds: float = 0.0
    violations: list[Violation] = []

    @property
    def aggregator_kills(self) -> int:
        """SIGKILLs of an aggregator, of any kind."""
        return sum(count for kind, count in self.kills.items() if kind.startswith("aggregator"))

    @classmethod
    def load(cls, path: Path, seed: int | None) -> Self:
        """Return the tally of a file, or a new one where there is none.

        Args:
            path: of the file.
            seed: wanted; None: the file's own, 1 for a new tally.

        Raises:
            ConfigError: the file is no tally, or has another seed.
        """
        try:
            text = path.read_text()
        except FileNotFoundError:
            return cls(seed=1 if seed is None else seed)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
        hint = "delete the file to begin anew, or choose another --folder"
        try:
            tally = cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError("is not a tally of this torture", where=str(path), hint=hint) from error
        if seed not in (None, tally.seed):
            raise ConfigError(f"was begun with seed {tally.seed}, not {seed}", where=str(path), hint=hint)
        return tally

    def add(
        self, verdict: Verdict, *, kills: Mapping[str, int], faults: Mapping[str, int], seconds: float, folder: Path
    ) -> None:
        """Add a run.

        Args:
            verdict: on the run.
            kills: by kind.
            faults: by kind.
            seconds: that it took.
            folder: where it lies, kept when a promise was broken.
        """
        shown = verdict.violations[:SHOWN_VIOLATIONS]
        if n_more := len(verdict.violations) - len(shown):
            shown.append(f"and {n_more} more like these")
        self.violations += [Violation(run=self.runs, what=what, folder=str(folder)) for what in shown]
        self.runs += 1
        self.versions += verdict.versions
        self.updates += verdict.updates
        self.accepted += verdict.accepted
        self.receipts += verdict.receipts
        self.outcomes += verdict.outcomes
        self.kills += Counter(kills)
        self.faults += Counter(faults)
        self.seconds = round(self.seconds + seconds, 1)

    def save(self, path: Path) -> None:
        """Write the file; whoever reads it sees the old or the new one."""
        temporary = path.with_suffix(".new")
        temporary.write_text(self.model_dump_json(indent=2) + "\n")
        os.replace(temporary, path)

    def lines(self) -> list[str]:
        """Return the tally for a person."""
        pace = self.updates / self.seconds if self.seconds else 0.0
        kinds = [f"  {count:>7}  {kind}" for kind, count in sorted(self.kills.items())]
        others = [f"  {count:>7}  {kind}" for kind, count in sorted(self.faults.items())]
        ends = [f"  {count:>7}  {kind}" for kind, count in sorted(self.outcomes.items())]
        return [
            f"{self.updates} updates in {self.runs} runs, {self.seconds:.0f} s, {pace:.0f} a second; seed {self.seed}",
            f"{self.accepted} counted in {self.versions} versions, {self.receipts} receipts",
            "updates, by what became of them:",
            *ends,
            f"kills: {self.aggregator_kills} of aggregators, {self.kills['broker']} of brokers; by kind:",
            *kinds,
            "other faults:",
            *others,
            f"violations: {len(self.violations)}",
            *(f"  seed {self.seed}, run {each.run}: {each.what}\n    {each.folder}" for each in self.violations),
            *([_HOW_TO_LOOK] if self.violations else []),
        ]
