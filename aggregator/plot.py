"""One picture of a run: the metric over the rounds, and below it what became of every report.

matplotlib is loaded only here and only when a picture is drawn; without it a run lacks its picture and nothing else.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from aggregator.evaluation import MetricSummary
from aggregator.history import COUNTS, RoundSummary, RunHistory
from shared.task import PERSONAL

__all__ = ["COLOURS", "MAX_BARS", "save_plot"]

log = structlog.get_logger(__name__)

# Okabe and Ito's palette: told apart by people who do not see red and green as different
COLOURS = {
    "accepted": "#009E73",
    "discarded": "#56B4E9",
    "rejected": "#D55E00",
    "failed": "#CC79A7",
    "cancelled": "#BBBBBB",
    "expired": "#E69F00",
}
_CENTRAL, _FEDERATED, _PERSONAL = "#0072B2", "#D55E00", "#009E73"
MAX_BARS = 120
"""Rounds beyond which bars would be thinner than a pixel and areas are drawn."""


def save_plot(history: RunHistory, path: Path, *, metric: str, title: str) -> bool:
    """Draw a run.

    Args:
        history: as `read_history` returns it; without rounds there is no picture.
        path: of the PNG.
        metric: drawn on top; when nobody reported it, the first that is there.
        title: name of the run.

    Returns:
        Whether a picture was drawn; when not, the log says why.
    """
    rounds = history.rounds
    if not rounds:
        log.info("plot_skipped", cause="no rounds")
        return False
    if find_spec("matplotlib") is None:
        log.warning("plot_skipped", cause="matplotlib is not installed", hint="pip install 'fedmq[plot]'")
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps figures in a global, and asks for a display
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    _draw_metric(top, history, _choose(history, metric))
    _draw_reports(bottom, rounds)
    n_committed = sum(r.outcome == "committed" for r in rounds)
    n_up, n_down = sum(r.bytes_up for r in rounds), sum(r.bytes_down for r in rounds)
    figure.align_ylabels()
    # one line for all seven entries
    look = {"ncols": 7, "fontsize": 8, "handlelength": 1.0, "columnspacing": 1.3, "frameon": False}
    figure.legend(*bottom.get_legend_handles_labels(), loc="outside lower center", **look)
    figure.suptitle(f"{title}: {n_committed} of {len(rounds)} rounds committed, {_size(n_up)} up, {_size(n_down)} down")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return True


def _choose(history: RunHistory, metric: str) -> str:
    there = [name for r in history.rounds for name in r.metrics]
    there += [name for e in history.evaluations for name in e.metrics]
    return metric if metric in there or not there else there[0]


def _draw_metric(axes: Any, history: RunHistory, metric: str) -> None:
    committed = [r for r in history.rounds if r.outcome == "committed"]
    round_of = {r.version: r.round_id for r in committed}
    central = [(r.round_id, r.metrics[metric]) for r in committed if metric in r.metrics]
    on_devices = {
        "on devices": (_FEDERATED, _evaluated(history, metric, round_of)),
        "on devices, own models": (_PERSONAL, _evaluated(history, f"{PERSONAL}{metric}", round_of)),
    }
    if central:
        x, y = zip(*central, strict=True)
        axes.plot(x, y, color=_CENTRAL, marker=_marker(x), label=f"central, last {y[-1]:.4g}")
    for words, (colour, found) in on_devices.items():
        if found:
            x, summaries = zip(*found, strict=True)
            lows, highs = [s.p10 for s in summaries], [s.p90 for s in summaries]
            axes.fill_between(x, lows, highs, color=colour, alpha=0.15, linewidth=0, label="10th to 90th percentile")
            label = f"{words}, last {summaries[-1].value:.4g}"
            axes.plot(x, [s.value for s in summaries], color=colour, marker=_marker(x), label=label)
    if central or any(found for _, found in on_devices.values()):
        axes.legend(loc="best", frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing was evaluated", transform=axes.transAxes, ha="center", va="center", color="grey")
    axes.set_ylabel(metric)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _evaluated(history: RunHistory, metric: str, round_of: Mapping[int, int]) -> Sequence[tuple[int, MetricSummary]]:
    return [
        (round_of[e.version], e.metrics[metric])
        for e in history.evaluations
        if metric in e.metrics and e.version in round_of
    ]


def _marker(points: Sequence[int]) -> str:
    return "." if len(points) <= MAX_BARS else ""


def _draw_reports(axes: Any, rounds: Sequence[RoundSummary]) -> None:
    from matplotlib.ticker import MaxNLocator

    x = [r.round_id for r in rounds]
    below = [0] * len(rounds)
    for name in COUNTS:
        counts = [r.counts.get(name, 0) for r in rounds]
        if not any(counts):
            continue
        above = [b + c for b, c in zip(below, counts, strict=True)]
        label = f"{name} {sum(counts)}"
        if len(rounds) <= MAX_BARS:
            axes.bar(x, counts, bottom=below, width=0.8, color=COLOURS[name], label=label)
        else:
            axes.fill_between(x, below, above, step="mid", color=COLOURS[name], label=label, linewidth=0)
        below = above
    abandoned = [(r.round_id, b + 0.7) for r, b in zip(rounds, below, strict=True) if r.outcome == "abandoned"]
    if abandoned:
        axes.plot(*zip(*abandoned, strict=True), "kx", markersize=5, label=f"round abandoned {len(abandoned)}")
    axes.set_ylim(0, max(1, *below) * 1.08)
    axes.set_xlim(x[0] - 0.6, x[-1] + 0.6)
    axes.set_xlabel("round")
    axes.set_ylabel("reports")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}" if n_bytes < 1000 else f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} GiB"
