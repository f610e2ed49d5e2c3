"""One picture of fairness: what each class is, does and weighs, and how good the model is on its devices.

matplotlib is loaded only here and only when a picture is drawn. Not here: the numbers (`fairness.py`).
"""

from importlib.util import find_spec
from pathlib import Path

from aggregator.explained_tables import class_name
from aggregator.fairness import FairnessReport
from shared.errors import ConfigError

__all__ = ["save_fairness_plot"]

_COLOURS = ("#BBBBBB", "#56B4E9", "#0072B2", "#009E73")
"""Okabe and Ito's palette, as in `plot.py`."""
_SHARES = ("of the devices", "of the work given", "of the weight in the model")


def save_fairness_plot(report: FairnessReport, path: Path, *, title: str) -> None:
    """Draw a report.

    Args:
        report: of a run in which at least one device was seen.
        path: of the PNG.
        title: name of the run.

    Raises:
        ConfigError: there is no matplotlib, nothing to draw, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("matplotlib is not installed", where="--plot", hint="pip install 'fedmq[plot]'")
    if not report.classes:
        raise ConfigError("no device was seen yet: there is nothing to draw", where="--plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4 if report.metric is None else 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1 if report.metric is None else 2, 1, squeeze=False)[:, 0]
    names = [class_name(each.device_class) for each in report.classes]
    shares = [(each.population_share, each.selected_share, each.weight_share) for each in report.classes]
    axes = all_axes[0]
    for i, label in enumerate(_SHARES):
        axes.bar(
            [x + 0.27 * (i - 1) for x in range(len(names))],
            [100 * each[i] for each in shares],
            width=0.25,
            color=_COLOURS[i],
            label=label,
        )
    axes.set_ylabel("share in %")
    axes.legend(frameon=False, fontsize=8)
    if report.metric is not None:
        of_class = {each.device_class: each for each in report.accuracy}
        found = [(x, of_class.get(each.device_class)) for x, each in enumerate(report.classes)]
        bars = [(x, each) for x, each in found if each is not None]
        all_axes[1].bar([x for x, _ in bars], [each.value for _, each in bars], width=0.6, color=_COLOURS[3])
        all_axes[1].plot([x for x, _ in bars], [each.p10 for _, each in bars], "k_", markersize=18)
        all_axes[1].axhline(report.value or 0.0, color="black", linewidth=0.8, linestyle=":")
        all_axes[1].set_ylabel(f"{report.metric} on devices\n(line: all, dash: 10th percentile)")
    for each_axes in all_axes:
        each_axes.set_xticks(range(len(names)), names)
        each_axes.spines[["top", "right"]].set_visible(False)
    index = "" if report.jain_weight is None else f", Jain's index of the weight {report.jain_weight:.2f}"
    figure.suptitle(f"{title}: {report.n_ever_counted} of {report.n_devices} devices counted{index}")
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        hint = "name a file in a folder that exists and can be written"
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error
