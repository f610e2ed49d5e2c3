"""Every lease of a journal by the round that it was given in: what it became, where its time went.

The journal is the truth for what became of a lease. Times of devices that reported are their own words in their ACCEPT
rows; times of all others are what the aggregator saw (`timeline_lines.py`), and unknown where it saw nothing.

Pure. Not here: how rounds are summed up (`explained_rounds.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aggregator.explained_causes import lease_cause
from aggregator.explanation import ExplainedLease, ExplainedRefusal, MetricsReport, TimeSplit
from aggregator.phases import EndCause
from aggregator.records import (
    AbandonRecord,
    AcceptRecord,
    CloseRecord,
    CommitRecord,
    ConfigRecord,
    FinishRecord,
    LeaseRecord,
    OutcomeRecord,
    Record,
    RoundRecord,
    VoidRecord,
)
from aggregator.staleness import staleness
from aggregator.timeline_lines import PARTS, LeaseLine
from shared.messages import Kind, Outcome

__all__ = ["LeaseAccounts", "RoundAccount"]


@dataclass(slots=True)
class RoundAccount:
    """A round as it is being read."""

    round_id: int
    goal: int
    quorum: int
    outcome: str = "open"
    version: int | None = None
    end: EndCause | None = None
    n_accepted: int = 0
    leases: list[ExplainedLease] = field(default_factory=list)
    refused: dict[str, ExplainedRefusal] = field(default_factory=dict)


class LeaseAccounts:
    """Reads the journal once."""

    def __init__(self, lines: Mapping[str, LeaseLine]) -> None:
        self._lines = lines
        self.rounds: dict[int, RoundAccount] = {}
        self.evaluations: list[MetricsReport] = []
        self.version = 0
        self._leases: dict[str, LeaseRecord] = {}
        self._ended: dict[str, ExplainedLease] = {}
        self._accepted: dict[int, list[str]] = {}  # version -> leases that count for it
        self._closed: tuple[EndCause | None, int] = (None, 0)
        self._is_voided = False
        self._goal, self._quorum = 0, 0
        self.rule = "mean"
        self._current: RoundAccount | None = None
        self.finish: str | None = None

    def take(self, record: Record) -> None:
        """Read one row."""
        match record:
            case ConfigRecord():
                self._configured(record)
            case RoundRecord():
                self._current = RoundAccount(record.round_id, self._goal, self._quorum)
                self.rounds[record.round_id] = self._current
                self._is_voided, self.finish = False, None
            case LeaseRecord():
                self._leases[record.lease] = record
            case AcceptRecord():
                self._accepted.setdefault(record.into, []).append(record.lease)
                self._end(self._of_accept(record))
            case OutcomeRecord():
                self._outcome(record)
            case CloseRecord():
                self._closed = (record.cause, len(self._accepted.get(record.into, ())))
            case CommitRecord():
                self.version = record.version
                self._accepted.pop(record.version, None)
                self._over("committed", *self._closed, version=record.version)
            case AbandonRecord():
                n_accepted = len(self._accepted.get(self.version + 1, ()))
                cause = EndCause.VOIDED if self._is_voided else EndCause.NO_QUORUM
                self._over("abandoned", cause, n_accepted)
            case VoidRecord():
                self._void(record)
            case FinishRecord():
                self.finish = record.cause

    def close(self) -> None:
        """The journal ends here: what has no outcome is still out."""
        for name, record in self._leases.items():
            if record.kind is Kind.TRAIN and name not in self._ended:
                self._end(self._explained(record, None, version=self.version))
        for name, record in self._leases.items():
            if record.kind is Kind.TRAIN and (of := self.rounds.get(record.round_id)) is not None:
                of.leases.append(self._ended[name])

    def _configured(self, record: ConfigRecord) -> None:
        tables = json.loads(record.settings)
        rule = tables.get("server", {}).get("rule", {})
        mixed = " over nearest-neighbour mixing" if rule.get("mixing", "none") != "none" else ""
        self.rule = str(rule.get("name", self.rule)) + mixed
        settings = tables.get("round", {})
        self._goal = int(settings.get("report_goal", 0))
        share = float(settings.get("quorum", 1.0))
        self._quorum = -int(-round(share * self._goal, 9) // 1)  # rounded up, as the engine does

    def _over(self, outcome: str, cause: EndCause | None, n_accepted: int, *, version: int | None = None) -> None:
        if self._current is not None:
            self._current.outcome, self._current.end = outcome, cause
            self._current.n_accepted, self._current.version = n_accepted, version

    def _void(self, record: VoidRecord) -> None:
        leases = self._accepted.pop(record.into, [])
        voided = leases if record.lease is None else [record.lease]
        if kept := [lease for lease in leases if lease not in voided]:
            self._accepted[record.into] = kept
        self._is_voided = record.lease is None
        for lease in voided:
            known = self._ended.get(lease)
            if known is not None:
                cause = f"{known.cause}, then thrown away"
                self._end(replace(known, is_voided=True, weight=0.0, cause=cause))

    def _outcome(self, record: OutcomeRecord) -> None:
        lease = self._leases.get(record.lease)
        if lease is None:
            return  # a repair gave up its row
        if lease.kind is Kind.TRAIN:
            self._end(self._explained(lease, record, version=self.version))
        elif record.outcome is Outcome.ACCEPTED:
            self.evaluations.append(
                MetricsReport(
                    version=lease.base_version,
                    device=lease.device,
                    device_class=lease.device_class,
                    num_examples=record.num_examples,
                    metrics=record.metrics,
                )
            )

    def _end(self, lease: ExplainedLease | None) -> None:
        if lease is not None:
            self._ended[lease.lease] = lease

    def _of_accept(self, record: AcceptRecord) -> ExplainedLease | None:
        lease = self._leases.get(record.lease)
        if lease is None:
            return None
        late = staleness(record.into, record.base_version)
        line = self._lines.get(record.lease)
        cause = lease_cause(
            outcome=Outcome.ACCEPTED,
            reason=None,
            detail="",
            is_lost=False,
            staleness=late,
            into=record.into,
            version=self.version,
            line=line,
        )
        return ExplainedLease(
            lease=record.lease,
            device=lease.device,
            device_class=lease.device_class,
            round_id=lease.round_id,
            base_version=lease.base_version,
            codec=lease.codec,
            state="late" if late else "accepted",
            cause=cause,
            into=record.into,
            staleness=late,
            weight=record.weight * record.discount,
            seconds=record.seconds,
            time=_split_of_accept(record, line),
            is_resumed=line is not None and line.is_resumed,
        )

    def _explained(self, lease: LeaseRecord, outcome: OutcomeRecord | None, *, version: int) -> ExplainedLease:
        line = self._lines.get(lease.lease) if outcome is not None else None
        is_lost = outcome is not None and outcome.is_lost
        state = "open" if outcome is None else "lost" if is_lost else str(outcome.outcome)
        cause = lease_cause(
            outcome=None if outcome is None else outcome.outcome,
            reason=None if outcome is None else outcome.reason,
            detail="" if outcome is None else outcome.detail,
            is_lost=is_lost,
            staleness=0,
            into=None,
            version=version,
            line=line,
        )
        return ExplainedLease(
            lease=lease.lease,
            device=lease.device,
            device_class=lease.device_class,
            round_id=lease.round_id,
            base_version=lease.base_version,
            codec=lease.codec,
            state=state,
            cause=cause,
            reason=None if outcome is None or outcome.reason is None else str(outcome.reason),
            seconds=None if line is None else line.seconds,
            time=None if line is None else _split_of_line(line),
            is_resumed=line is not None and line.is_resumed,
        )


def _split_of_line(line: LeaseLine) -> TimeSplit:
    return TimeSplit(**dict(zip(PARTS, line.parts, strict=True)), source="seen")


def _split_of_accept(record: AcceptRecord, line: LeaseLine | None) -> TimeSplit:
    """Return where the time went by the device's own words; what they do not name, by what was seen, sums to the rest.

    A device that trains while it is offline trains. What it names may not fit into the lease's life, for its clock is
    another and work may have begun before a restart: then what was seen holds.
    """
    life, seen = record.seconds, None if line is None else _split_of_line(line)
    download = record.fetch_seconds or (0.0 if seen is None else seen.download)
    said = download + record.train_seconds
    if not record.train_seconds or said > life + 0.001:
        if seen is not None:
            return seen
        return TimeSplit(unknown=life, source="device")
    left = max(0.0, life - said)
    offline = min(left, record.offline_seconds or (0.0 if seen is None else seen.offline))
    waiting = min(left - offline, 0.0 if seen is None else seen.waiting)
    return TimeSplit(
        waiting=waiting,
        download=download,
        training=record.train_seconds,
        upload=left - offline - waiting,
        offline=offline,
        source="device",
    )
