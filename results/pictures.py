"""Small pictures of cases. matplotlib is loaded only here, and only when one is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results.case import Case, Found
from results.intervals import Interval

__all__ = ["COLOURS", "draw_case", "draw_intervals", "draw_lines"]

# Okabe and Ito's palette: told apart by people who do not see red and green as different
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DOTS_PER_INCH = 80


def draw_case(case: Case, found: Found, path: Path) -> None:
    """Draw a case's picture.

    Args:
        case: draws itself on two axes.
        found: its numbers.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps figures in a global, and asks for a display
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, 2))
    case.draw(found, axes)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def draw_lines(
    axes: Any, lines: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, colours: Sequence[int] = ()
) -> None:
    """Draw a named line each, (x, y) by (x, y)."""
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[(colours[number] if colours else number) % len(COLOURS)]
        axes.plot([at for at, _ in points], [value for _, value in points], color=colour, label=name, linewidth=1.4)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=8)


def draw_intervals(axes: Any, intervals: Mapping[str, Interval], *, x: str, marks: Sequence[float] = ()) -> None:
    """Draw a named mean with its interval a line, and vertical marks."""
    names = list(intervals)[::-1]
    for place, name in enumerate(names):
        each = intervals[name]
        if each.is_known:
            axes.plot([each.low, each.high], [place, place], color=COLOURS[0], linewidth=2)
        axes.plot([each.mean], [place], "o", color=COLOURS[0])
    for mark in marks:
        axes.axvline(mark, color=COLOURS[7] if mark else COLOURS[6], linewidth=0.8, linestyle="--" if mark else "-")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(x)
