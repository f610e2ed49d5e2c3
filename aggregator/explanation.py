"""What explains a run: every round, every lease of it, who was kept out, and what devices found of a version.

Pure: frozen values. Not here: how they are found (`explained_rounds.py`), in which words (`explained_causes.py`), how
they are shown (`explained_tables.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.messages import WireMetric

__all__ = [
    "STATES",
    "ExplainedLease",
    "ExplainedRefusal",
    "ExplainedRound",
    "ExplainedRun",
    "MetricsReport",
    "TimeSplit",
]

STATES = ("accepted", "late", "discarded", "rejected", "failed", "cancelled", "lost", "open")
"""What a lease became; each is in exactly one. "accepted" are in time, "late" counted with a staleness over 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """Where the time of a lease went, in seconds; the parts sum to its life.

    Args:
        waiting: no word of the device yet, or idle in its own words.
        download: it fetched the model.
        training: it trained.
        upload: from having an update to the verdict.
        offline: it was away; what it trained meanwhile, if it says so, is training.
        unknown: nobody saw.
        source: "device": its own words; "seen": what the aggregator saw.
    """

    waiting: float = 0.0
    download: float = 0.0
    training: float = 0.0
    upload: float = 0.0
    offline: float = 0.0
    unknown: float = 0.0
    source: str = "seen"

    @property
    def total(self) -> float:
        """All of it, in seconds."""
        return self.waiting + self.download + self.training + self.upload + self.offline + self.unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedLease:
    """One lease.

    Args:
        lease: its name.
        device: that had it.
        device_class: of the device, "" when it did not say.
        round_id: in which it was given.
        base_version: that the device was to train.
        codec: in which its update was to travel.
        state: of `STATES`.
        cause: in words.
        reason: of the journal's outcome, None for one that counted or is open.
        into: the version it counted for; None: for none.
        staleness: of what counted.
        weight: of what counted, damped by its staleness; 0 otherwise.
        is_voided: whether it was thrown away after it had counted.
        seconds: from the lease to its end; None: not known.
        time: where they went; None: not known.
        is_resumed: whether the aggregator was restarted meanwhile, so that `seconds` are those since then.
    """

    lease: str
    device: str
    device_class: str
    round_id: int
    base_version: int
    codec: str
    state: str
    cause: str
    reason: str | None = None
    into: int | None = None
    staleness: int = 0
    weight: float = 0.0
    is_voided: bool = False
    seconds: float | None = None
    time: TimeSplit | None = None
    is_resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRefusal:
    """A device that said, or was told, that it may not take part.

    Args:
        device: its id.
        device_class: "" when it did not say.
        reason: a `Reason`.
        detail: in words, as they were when the refusal began.
        since_round: the first round that it was kept out of.
    """

    device: str
    device_class: str
    reason: str
    detail: str
    since_round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRound:
    """One round.

    Args:
        round_id: counts abandoned rounds too.
        outcome: "committed", "abandoned", "open" (under way), or "unfinished" (the run ended in it).
        version: that it committed, None for none.
        end: why it ended, an `EndCause`; None: it has not, or nobody knows.
        cause: the same in words.
        seconds: that it took; None: not known.
        ended_at: ISO 8601, UTC; None: not known.
        goal, quorum: of its settings.
        counts: leases given in it by state, see `STATES`; they sum to `n_selected`.
        n_selected: leases given in it.
        n_refused: devices that were kept out of it and had no lease in it.
        device_seconds: of its leases, by part; the parts of `TimeSplit`.
        failures: leases given in it that failed or were rejected, by why in words, the commonest first.
        slowest: device whose counted update took longest.
        slowest_class: the class whose counted updates took longest in the mean.
        leases: in the order in which they were given.
        refused: devices that were kept out.
    """

    round_id: int
    outcome: str
    version: int | None
    end: str | None
    cause: str
    seconds: float | None
    ended_at: str | None
    goal: int
    quorum: int
    counts: Mapping[str, int]
    n_selected: int
    n_refused: int
    device_seconds: Mapping[str, float]
    failures: Mapping[str, int]
    slowest: str | None
    slowest_class: str | None
    leases: tuple[ExplainedLease, ...] = ()
    refused: tuple[ExplainedRefusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsReport:
    """What one device found when it evaluated a version."""

    version: int
    device: str
    device_class: str
    num_examples: int
    metrics: tuple[tuple[str, WireMetric], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRun:
    """A whole run.

    Args:
        run: its name.
        version: the last committed one.
        finished_by: None: it has not ended.
        rounds: all that began, in order.
        pauses: why it stands still, the detail by cause; {} when it does not, or nobody knows.
        population: devices seen by class, at most at one time; {} when nobody counted.
        evaluations: what devices reported, in the order of the journal.
        rule: of aggregation, by the newest settings. One that is robust may have left out what counted.
    """

    run: str
    version: int
    finished_by: str | None
    rounds: tuple[ExplainedRound, ...]
    pauses: Mapping[str, str] = field(default_factory=dict)
    population: Mapping[str, int] = field(default_factory=dict)
    evaluations: tuple[MetricsReport, ...] = ()
    rule: str = "mean"
