"""What a run came to, counted from its journal: rounds and their lengths, and what became of the leases, by class.

One reader for every fleet: simulated, rehearsed or in containers, all of them leave the same journal. It has a query of
its own and believes no other file. *Accepted*: the update counts. *Late*: good work that came after its round had what
it needed, or was still under way then. *Rejected*: the aggregator would not have it, for its norm or its bytes. *Lost*:
nobody had heard of the lease for too long, its device failed, or it was still open when the run ended.

Not here: whether the journal and the devices tell the same story (`torture_checks.py`), drawing.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.history import read_history
from shared.errors import ConfigError
from simulator.torture_checks import Row, read_rows

__all__ = ["FAILED", "HOW", "TRAIN", "ClassOutcomes", "Outcomes", "committed_seconds", "outcomes_of", "read_outcomes"]

TRAIN = "train"
"""The kind of a lease that yields an update; all others are evaluations."""
REJECTED, FAILED = "rejected", "failed"
"""Outcomes that have a reason: the aggregator's, and the device's own."""
HOW = ("accepted", "too_late", "rejected", "lost")
"""What becomes of a lease; each is in exactly one."""
LATE = frozenset({"discarded", "cancelled"})
"""Outcomes of good work that came too late, and of a lease that nobody needed any more."""


@dataclass(slots=True, kw_only=True)
class ClassOutcomes:
    """What became of the leases of one class; shares are of all of them."""

    accepted: int = 0
    too_late: int = 0
    rejected: int = 0
    lost: int = 0
    devices: set[str] = field(default_factory=set)

    @property
    def leases(self) -> int:
        """All of them."""
        return self.accepted + self.too_late + self.rejected + self.lost

    def shares(self) -> dict[str, float]:
        """Return what became of them as shares of all leases, by `HOW`; zeros where there are none."""
        return {name: getattr(self, name) / max(1, self.leases) for name in HOW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """A whole run.

    Args:
        committed: rounds that made a version.
        abandoned: rounds that did not.
        seconds: of each round that committed, in order.
        by_class: leases of training, by class of device; a device that says none is of its group's.
        reasons: of those that were rejected, and of those that failed, how many for which reason.
        failure: the words in which most devices said why they failed, "" where none did.
        codecs: of the updates that count, how many came in which.
        starts: of the aggregator.
        is_finished: whether the run came to its end.
    """

    committed: int
    abandoned: int
    seconds: Sequence[float]
    by_class: Mapping[str, ClassOutcomes]
    starts: int
    is_finished: bool
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failure: str = ""
    codecs: Mapping[str, int] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        """Median length of a committed round, in seconds; 0 when there is none."""
        return statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def total(self) -> ClassOutcomes:
        """Over all classes."""
        every = self.by_class.values()
        return ClassOutcomes(
            accepted=sum(each.accepted for each in every),
            too_late=sum(each.too_late for each in every),
            rejected=sum(each.rejected for each in every),
            lost=sum(each.lost for each in every),
            devices=set().union(*(each.devices for each in every)),
        )


def outcomes_of(rows: Iterable[Row], seconds: Sequence[float]) -> Outcomes:
    """Count what the rows of a journal say.

    Args:
        rows: in order.
        seconds: of each committed round, for the journal knows no time.
    """
    leases: dict[str, Row] = {}
    became: dict[str, str] = {}
    kinds: dict[str, int] = defaultdict(int)
    reasons: dict[str, Counter[str]] = {REJECTED: Counter(), FAILED: Counter()}
    failures: Counter[str] = Counter()
    codecs: Counter[str] = Counter()
    for row in rows:
        kinds[row.kind] += 1
        lease = row.lease or ""
        if row.kind == "lease" and row.body["kind"] == TRAIN:
            leases[lease] = row
        elif row.kind == "accept":
            became[lease] = "accepted"
            codecs[row.body["codec"]] += 1
        elif row.kind == "outcome":
            how, is_lost = row.body["outcome"], row.body.get("is_lost")
            if lease in leases and how in reasons:
                reasons[how][row.body.get("reason") or how] += 1
                failures.update([row.body.get("detail", "")] * (how == FAILED))
            is_late = how in LATE and not is_lost
            became.setdefault(lease, "too_late" if is_late else REJECTED if how == REJECTED else "lost")
    by_class: dict[str, ClassOutcomes] = defaultdict(ClassOutcomes)
    for lease, row in leases.items():
        device: str = row.body["device"]
        counted = by_class[row.body.get("device_class") or device.rpartition("-")[0] or device]
        counted.devices.add(device)
        how = became.get(lease, "lost")
        setattr(counted, how, getattr(counted, how) + 1)
    return Outcomes(
        committed=kinds["commit"],
        abandoned=kinds["abandon"],
        seconds=seconds,
        by_class=dict(sorted(by_class.items())),
        starts=kinds["epoch"],
        is_finished=kinds["finish"] > 0,
        reasons={how: dict(sorted(counts.items())) for how, counts in reasons.items() if counts},
        failure=min(failures, key=lambda words: (-failures[words], words), default=""),
        codecs=dict(sorted(codecs.items())),
    )


def committed_seconds(run_folder: Path) -> list[float]:
    """Return how long each committed round of a run took, in order; [] before the first has ended.

    Raises:
        ConfigError: a line of its history is not one.
    """
    path = run_folder / "history.jsonl"
    rounds = read_history(path) if path.exists() else []
    return [each.seconds for each in rounds if each.outcome == "committed"]


def read_outcomes(run_folder: Path) -> Outcomes:
    """Read a run's folder.

    Raises:
        ConfigError: there is no journal in it, or its history cannot be read.
    """
    journal = run_folder / "journal.sqlite"
    if not journal.is_file():
        hint = "name the folder of a run, such as runs/NAME"
        raise ConfigError("there is no journal", where=str(run_folder), hint=hint)
    return outcomes_of(read_rows(journal), committed_seconds(run_folder))
