"""Pictures of simulated runs: what a metric cost, how rounds went, who took part; one run, or several side by side.

The style is that of `aggregator/plot.py`. matplotlib is loaded only here and only when a picture is drawn; without it a
run lacks its pictures and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aggregator.history import COUNTS
from aggregator.plot import COLOURS, MAX_BARS
from simulator.runs.curves import Curve
from simulator.runs.report import Report

__all__ = ["draw_comparison", "draw_report", "is_drawn"]

# Okabe and Ito's palette: told apart by people who do not see red and green as different
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
UNITS = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def is_drawn() -> bool:
    """Whether pictures can be drawn here."""
    return find_spec("matplotlib") is not None


def draw_report(report: Report) -> list[Path]:
    """Draw a run: `learning.png` and `rounds.png` in its folder.

    Returns:
        What was drawn; [] without matplotlib, or without a round.
    """
    if not (is_drawn() and report.rounds):
        return []
    learning, rounds = report.folder / "learning.png", report.folder / "rounds.png"
    _draw_curves([report.curve], learning, title=report.name)
    _save(rounds, report.name, (13, 4), lambda axes: _draw_rounds(axes, report))
    return [learning, rounds]


def draw_comparison(curves: Sequence[Curve], path: Path, *, target: float | None) -> bool:
    """Draw the curves of several runs over virtual time, bytes and device-seconds.

    Args:
        curves: of the runs.
        path: of the PNG.
        target: a line at the metric at which they are compared.

    Returns:
        Whether it was drawn.
    """
    if not is_drawn():
        return False
    _draw_curves(curves, path, title="compared", target=target)
    return True


def _save(path: Path, title: str, size: tuple[float, float], draw: Callable[[Sequence[Any]], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps figures in a global, and asks for a display
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 3))
    draw(axes)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _draw_curves(curves: Sequence[Curve], path: Path, *, title: str, target: float | None = None) -> None:
    def draw(axes: Sequence[Any]) -> None:
        costs = (("at_s", "virtual", UNITS, "s"), ("bytes", "over all links", SIZES, "B"), ("device_s", "", UNITS, "s"))
        for each, (name, words, units, smallest) in zip(axes, costs, strict=True):
            most = max((value for curve in curves for value in curve.axis(name)), default=0.0)
            size, unit = next(((size, unit) for size, unit in units if most >= 2 * size), (1.0, smallest))
            for index, curve in enumerate(curves):
                x, y = [value / size for value in curve.axis(name)], [value for _, value in curve.points]
                marker = "." if len(x) <= MAX_BARS else ""
                each.plot(x, y, color=LINES[index % len(LINES)], marker=marker, label=curve.name)
            if target is not None:
                each.axhline(target, color="grey", linewidth=0.8, linestyle=":")
            each.set_xlabel(f"device-{unit}, training or radio on" if name == "device_s" else f"{unit} {words}")
            each.grid(visible=True, alpha=0.25)
        axes[0].set_ylabel(curves[0].metric)
        if len(curves) > 1:
            axes[0].legend(loc="best", frameon=False, fontsize=8)

    _save(path, title, (13, 4), draw)


def _draw_rounds(axes: Sequence[Any], report: Report) -> None:
    left, middle, right = axes
    rounds = report.rounds
    x, below = [each.round_id for each in rounds], [0] * len(rounds)
    for name in COUNTS:
        counts = [each.counts.get(name, 0) for each in rounds]
        if any(counts):
            left.bar(x, counts, bottom=below, width=0.9, color=COLOURS.get(name, LINES[-1]), label=name)
            below = [b + c for b, c in zip(below, counts, strict=True)]
    left.legend(loc="best", frameon=False, fontsize=8)
    left.set_xlabel("round")
    left.set_ylabel("reports")
    middle.plot(x, [each.seconds for each in rounds], color=LINES[0], marker="." if len(x) <= MAX_BARS else "")
    median = report.fields["round_seconds"]["median"]
    if median is not None:
        middle.axhline(median, color="grey", linewidth=0.8, linestyle=":", label=f"median {median:.3g} s")
        middle.legend(loc="best", frameon=False, fontsize=8)
    middle.set_xlabel("round")
    middle.set_ylabel("seconds, virtual")
    middle.set_ylim(bottom=0)
    _draw_classes(right, report.fields["classes"])


def _draw_classes(axes: Any, classes: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw of each class its share of the fleet beside its share of the updates that counted."""
    names = list(classes)
    for offset, key, colour, words in (
        (-0.2, "devices", "#BBBBBB", "devices"),
        (0.2, "accepted", LINES[2], "accepted"),
    ):
        total = max(1, sum(each[key] for each in classes.values()))
        y = [index + offset for index in range(len(names))]
        axes.barh(y, [100 * classes[name][key] / total for name in names], height=0.38, color=colour, label=words)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("share of the fleet, and of the updates that count, %")
    axes.legend(loc="best", frameon=False, fontsize=8)
