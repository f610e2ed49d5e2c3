"""What happened, for people: a line of JSON a round and an evaluation on devices, and reading them back.

A view, not the truth: the journal decides, and nothing is read from here to go on with a run. So a line is not
synchronised, a torn last line is cut off, of two lines for one round the later holds, and a full disk costs lines,
never the run.

Not here: drawing (`plot.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import structlog
from pydantic import TypeAdapter, ValidationError

from aggregator.commands import EvaluationDone, RoundEnded
from aggregator.evaluation import MetricSummary
from aggregator.json_lines import append_lines, cut_torn_line, read_lines
from aggregator.loop_lag import LagSummary
from shared.errors import ConfigError

__all__ = ["COUNTS", "EvaluationSummary", "History", "RoundSummary", "RunHistory", "read_history"]

log = structlog.get_logger(__name__)

COUNTS = ("accepted", "discarded", "rejected", "failed", "cancelled", "expired")
"""What became of leases, in the order in which it is shown; `late` says how many of the accepted were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """One round.

    Args:
        round_id: counts abandoned rounds too.
        version: the last committed one after this round.
        outcome: "committed" or "abandoned".
        seconds: from its begin, or the last start of the aggregator in it, to its end.
        cause: why it ended, an `EndCause`; None: a restart no longer knew.
        n_extensions: how often its window had grown.
        ended_at: ISO 8601, UTC.
        counts: leases by what became of them since the round before, see `COUNTS`.
        totals: the same over the whole run.
        metrics: of central evaluation.
        bytes_up: chunks and inline updates that arrived since the round before.
        bytes_down: chunks and index pieces published since then, each once, however many devices fetch them.
        participants: devices whose update counts.
        loop_lag_ms: how late the event loop was since the round before, in milliseconds; None: nobody measured.
    """

    round_id: int
    version: int
    outcome: str
    seconds: float
    ended_at: str
    cause: str | None = None
    n_extensions: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    participants: tuple[str, ...] = ()
    loop_lag_ms: LagSummary | None = None
    kind: Literal["round"] = "round"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """One evaluation on devices. It ends later than the round that made its version.

    Args:
        version: that devices evaluated.
        n_asked: devices that were asked.
        n_devices: devices that reported.
        ended_at: ISO 8601, UTC.
        metrics: over those devices.
    """

    version: int
    n_asked: int
    n_devices: int
    ended_at: str
    metrics: Mapping[str, MetricSummary]
    kind: Literal["evaluation"] = "evaluation"


_READER: TypeAdapter[RoundSummary | EvaluationSummary] = TypeAdapter(RoundSummary | EvaluationSummary)


class History:
    """Appends to the file. What it is told is counted from the start of the run or the process; it writes differences.

    Everything here blocks: for the lane DISK.

    Args:
        path: of the JSON lines; created when missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._totals: Mapping[str, int] = {}
        self.last_round = 0
        """The newest round that has a line, 0 when none has."""
        self._bytes_up = self._bytes_down = 0
        if path.exists():
            cut_torn_line(path)
            try:
                rounds = RunHistory.read(path).rounds
            except ConfigError as error:  # no reason not to go on with the run
                log.warning("history_damaged", error=str(error))
            else:
                if rounds:
                    self._totals, self.last_round = rounds[-1].totals, rounds[-1].round_id

    def round_ended(
        self,
        ended: RoundEnded,
        *,
        bytes_up: int,
        bytes_down: int = 0,
        participants: Sequence[str] = (),
        lag: LagSummary | None = None,
        wall_s: float,
    ) -> None:
        """Write a round's line.

        Args:
            ended: as the machine says; its counts are those of the whole run.
            bytes_up: that arrived since this process began.
            bytes_down: that were published since this process began.
            participants: devices whose update counts.
            lag: of the event loop since the round before; None: nobody measured.
            wall_s: Unix time.
        """
        totals = {name: ended.counts.get(name, 0) for name in (*COUNTS, "late")}
        summary = RoundSummary(
            round_id=ended.round_id,
            version=ended.version,
            outcome=str(ended.outcome),
            seconds=round(ended.seconds, 3),
            ended_at=_stamp(wall_s),
            cause=ended.cause,
            n_extensions=ended.n_extensions,
            # an expired lease may still become another, so that its total falls
            counts={name: max(0, n - self._totals.get(name, 0)) for name, n in totals.items()},
            totals=totals,
            metrics=dict(ended.metrics),
            bytes_up=bytes_up - self._bytes_up,
            bytes_down=bytes_down - self._bytes_down,
            participants=tuple(participants),
            loop_lag_ms=lag,
        )
        self._totals, self._bytes_up, self._bytes_down = totals, bytes_up, bytes_down
        self.last_round = ended.round_id
        self._write(summary)

    def evaluated(self, done: EvaluationDone, metrics: Mapping[str, MetricSummary], *, wall_s: float) -> None:
        """Write the line of an evaluation on devices.

        Args:
            done: who was asked, and who reported.
            metrics: summed over them.
            wall_s: Unix time.
        """
        summary = EvaluationSummary(
            version=done.version,
            n_asked=done.n_asked,
            n_devices=len(done.reports),
            ended_at=_stamp(wall_s),
            metrics=metrics,
        )
        self._write(summary)

    def plot(self, path: Path, *, metric: str = "accuracy") -> bool:
        """Draw what is in the file; see `plot.save_plot`."""
        from aggregator.plot import save_plot  # it reads our types; and a run that draws nothing needs none of it

        history = RunHistory.read(self._path) if self._path.exists() else RunHistory()
        return save_plot(history, path, metric=metric, title=self._path.parent.name)

    def _write(self, summary: RoundSummary | EvaluationSummary) -> None:
        append_lines(self._path, [asdict(summary)])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """Everything in the file: rounds in their order, evaluations by version."""

    rounds: tuple[RoundSummary, ...] = ()
    evaluations: tuple[EvaluationSummary, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a history, also while it is being written.

        Raises:
            ConfigError: there is no such file, or a line in it is not one of ours.
        """
        rounds: dict[int, RoundSummary] = {}
        evaluations: dict[int, EvaluationSummary] = {}
        try:
            for number, entry in read_lines(path):
                try:
                    summary = _READER.validate_python(entry)
                except ValidationError as error:
                    raise ConfigError("not a line of a history", where=f"{path} line {number}") from error
                match summary:
                    case RoundSummary():
                        rounds[summary.round_id] = summary
                    case EvaluationSummary():
                        evaluations[summary.version] = summary
        except FileNotFoundError as error:
            raise ConfigError("there is no history yet", where=str(path)) from error
        return cls(
            rounds=tuple(rounds[key] for key in sorted(rounds)),
            evaluations=tuple(evaluations[key] for key in sorted(evaluations)),
        )


def read_history(path: Path) -> list[RoundSummary]:
    """Return the rounds of a history.

    Raises:
        ConfigError: as `RunHistory.read`.
    """
    return list(RunHistory.read(path).rounds)


def _stamp(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
