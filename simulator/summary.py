"""What a rehearsal ended with: how good the model is, what became of the reports, and where everything lies."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aggregator.history import RoundSummary, read_history
from shared.errors import ConfigError

__all__ = ["Killed", "Summary", "summarize"]

SHOWN = ("accepted", "discarded", "rejected", "failed")
"""Of the reports' outcomes, those that are always shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A device that was killed in mid-upload.

    Args:
        device: its id.
        chunks: of its update that the broker had.
        n_chunks: of the whole update.
        round_id: of the aggregator at that instant; None: not known yet.
    """

    device: str
    chunks: int
    n_chunks: int
    round_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The end of a rehearsal.

    Args:
        run: its name.
        metric: the one that decides.
        value: its last value, None if there is none.
        n_committed: rounds that made a version.
        n_abandoned: rounds that did not.
        seconds: from the start of the broker to the end of the last process.
        counts: leases by what became of them.
        bytes_up: that devices sent, over all links, repeats and the protocol's own bytes included.
        bytes_down: that devices received, likewise.
        killed: who was killed.
        model: the final model; None if none was written.
        history: a line a round.
        plot: the picture of it, None if there is none.
    """

    run: str
    metric: str
    value: float | None
    n_committed: int
    n_abandoned: int
    seconds: float
    counts: Mapping[str, int]
    bytes_up: int
    bytes_down: int
    killed: Sequence[Killed]
    model: Path | None
    history: Path
    plot: Path | None

    def lines(self) -> list[str]:
        """Return the summary for a person."""
        value = "unknown" if self.value is None else f"{self.value:.4f}"
        abandoned = f", {self.n_abandoned} abandoned" if self.n_abandoned else ""
        others = [name for name, n in self.counts.items() if n and name not in SHOWN]
        reports = ", ".join(f"{self.counts.get(name, 0)} {name}" for name in (*SHOWN, *others))
        return [
            f"Result:   {self.metric} {value} after {self.n_committed} rounds{abandoned}, in {self.seconds:.0f} s",
            f"Reports:  {reports}",
            f"Traffic:  {_size(self.bytes_up)} up, {_size(self.bytes_down)} down, over all links",
            *(
                f"Killed:   {k.device} in round {k.round_id}, with {k.chunks} of {k.n_chunks} chunks sent; never back"
                for k in self.killed
            ),
            f"Model:    {self.model or 'none was written'}",
            f"History:  {self.history}",
            f"Plot:     {self.plot or 'none: output.plot is false, or the log of the aggregator says why'}",
        ]

    def as_json(self) -> str:
        """Return the summary for a program."""
        return json.dumps(asdict(self), default=str)


def summarize(
    run_folder: Path,
    *,
    metric: str,
    counts: Mapping[str, int],
    seconds: float,
    bytes_up: int,
    bytes_down: int,
    killed: Sequence[Killed],
) -> Summary:
    """Read what a run has left in its folder.

    Args:
        run_folder: of the run.
        metric: the one that decides.
        counts: leases by what became of them, as the aggregator said last.
        seconds: that it took.
        bytes_up: that devices sent.
        bytes_down: that devices received.
        killed: who was killed.
    """
    history, model, plot = (run_folder / name for name in ("history.jsonl", "final.safetensors", "history.png"))
    try:
        rounds = read_history(history)
    except ConfigError:  # ended before the first round did
        rounds = []
    return Summary(
        run=run_folder.name,
        metric=metric,
        value=_last(rounds, metric),
        n_committed=sum(each.outcome == "committed" for each in rounds),
        n_abandoned=sum(each.outcome == "abandoned" for each in rounds),
        seconds=seconds,
        counts=counts,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        killed=tuple(killed),
        model=model if model.exists() else None,
        history=history,
        plot=plot if plot.exists() else None,
    )


def _last(rounds: Sequence[RoundSummary], metric: str) -> float | None:
    return next((each.metrics[metric] for each in reversed(rounds) if metric in each.metrics), None)


def _size(n_bytes: int) -> str:
    """Return a number of bytes for a person."""
    value, unit = float(n_bytes), "B"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{n_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
