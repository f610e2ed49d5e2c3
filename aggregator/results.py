"""What a run leaves for people: a record a round, the best and the last model, a plot, the result.

A view of what the journal decides, never read to go on with a run.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from aggregator.commands import EvaluationDone, RoundEnded, WindowExtended
from aggregator.evaluation import federated_metrics
from aggregator.history import History
from aggregator.loop_lag import LagSummary
from aggregator.model_store import ServerState, export
from aggregator.opening import OpenRun
from shared.errors import ConfigError
from shared.task import PERSONAL

__all__ = ["Results", "RunResult"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended.

    Args:
        run: its name.
        cause: "rounds", "metric", "patience" or "operator".
        version: the last committed one.
        rounds: begun, abandoned ones included.
        metrics: the last known.
        counts: train leases by state.
        refused: messages by reason.
        left_out: devices that were there at the end and took no part, by reason.
        bytes_up: received from devices.
        bytes_down: published, each piece once.
        loop_lag_ms: how late the event loop was, in milliseconds; None: nobody measured.
        folder, model, best, history, plot: where things lie; None: not there.
    """

    run: str
    cause: str
    version: int
    rounds: int
    metrics: dict[str, float]
    counts: dict[str, int]
    refused: dict[str, int]
    left_out: dict[str, int]
    bytes_up: int
    bytes_down: int
    loop_lag_ms: LagSummary | None
    folder: Path
    model: Path
    best: Path | None
    history: Path
    plot: Path | None


class Results:
    """Writes into the run's folder."""

    def __init__(self, opened: OpenRun, wall: Callable[[], float]) -> None:
        self._opened, self._wall = opened, wall
        self._history = History(opened.folder.history)

    def round_ended(
        self,
        ended: RoundEnded,
        *,
        participants: Sequence[str],
        bytes_up: int,
        bytes_down: int,
        lag: LagSummary | None = None,
    ) -> None:
        """Write a round's record, and log it, unless it has one: a restart ends the last round again.

        Blocks: for the lane DISK.

        Args:
            ended: the machine's summary.
            participants: devices whose update is in the version; () for an abandoned round.
            bytes_up: received since the start.
            bytes_down: published since the start.
            lag: of the event loop since the round before.
        """
        if ended.round_id <= self._history.last_round:
            return
        self._history.round_ended(
            ended, bytes_up=bytes_up, bytes_down=bytes_down, participants=participants, lag=lag, wall_s=self._wall()
        )
        seconds = round(ended.seconds, 1)
        metrics = {name: round(value, 4) for name, value in ended.metrics.items()}
        log.info(f"round_{ended.outcome}", round=ended.round_id, version=ended.version, seconds=seconds, **metrics)

    def window_extended(self, extended: WindowExtended) -> None:
        """Tell the operator that the round goes on without its quorum, what is missing, and until when."""
        until = datetime.fromtimestamp(self._wall() + extended.seconds_left, UTC)
        log.warning(
            "window_extended",
            cause="quorum_missed",
            round=extended.round_id,
            have=extended.have,
            need=extended.need,
            outstanding=extended.n_outstanding,
            until=until.strftime("%H:%M:%S UTC"),
            extension=f"{extended.times} of {extended.at_most}",
        )

    def evaluated(self, done: EvaluationDone) -> dict[str, float]:
        """Write the record of an evaluation on devices; return its metrics. Blocks: for the lane DISK."""
        summaries = federated_metrics(done.reports)
        self._history.evaluated(done, summaries, wall_s=self._wall())
        metric = self._opened.settings.stop.metric.removeprefix(PERSONAL)
        shown = {
            name: f"{found.value:.4g}, median {found.p50:.4g}, 10th percentile {found.p10:.4g}"
            for name in (metric, f"{PERSONAL}{metric}")
            if (found := summaries.get(name)) is not None
        }
        log.info("devices_evaluated", version=done.version, asked=done.n_asked, reported=len(done.reports), **shown)
        return {name: summary.value for name, summary in summaries.items()}

    def committed(self, state: ServerState, keep: Set[int], *, is_best: bool) -> None:
        """Keep the new version when it is the best so far, and delete what nobody needs. Blocks: for the lane DISK.

        Args:
            state: the new version.
            keep: versions whose files stay.
            is_best: whether its metric is the best so far.
        """
        if is_best and self._opened.settings.output.keep_best:
            export(state, self._opened.folder.best)
        store = self._opened.store
        store.delete_all_but({*keep, *(version for version in store.versions() if version > state.version)})

    def finish(self, version: int) -> None:
        """Write the final model and the plot. Blocks: for the lane DISK.

        Raises:
            ConfigError: the model cannot be written.
        """
        opened = self._opened
        try:
            opened.part_files.give_back()
            export(opened.store.load(version), opened.folder.final)
        except OSError as error:
            raise ConfigError(
                f"the final model cannot be written: {error}",
                where=str(opened.folder.final),
                hint="make room; the same command then only writes the results of the finished run",
            ) from error
        if not opened.settings.output.plot:
            return
        try:
            self._history.plot(opened.folder.plot, metric=opened.settings.stop.metric)
        except Exception as error:  # whatever matplotlib meets there: no run fails for its picture
            log.warning("plot_skipped", cause=f"{type(error).__name__}: {error}")

    def result(
        self,
        cause: str,
        *,
        counts: dict[str, int],
        refused: dict[str, int],
        bytes_up: int,
        bytes_down: int,
        lag: LagSummary | None = None,
    ) -> RunResult:
        """Return how the run ended."""
        machine, folder = self._opened.machine, self._opened.folder
        return RunResult(
            run=self._opened.run,
            cause=cause,
            version=machine.version,
            rounds=machine.round_id,
            metrics=dict(machine.stopping.metrics),
            counts=counts,
            refused=refused,
            left_out={str(reason): n for reason, n in sorted(machine.population.refusals().items())},
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            loop_lag_ms=lag,
            folder=folder.path,
            model=folder.final,
            best=folder.best if folder.best.exists() else None,
            history=folder.history,
            plot=folder.plot if folder.plot.exists() else None,
        )
