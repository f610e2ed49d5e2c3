"""Statistics of a fleet for a terminal: a row a column, histograms and categories below one another in its last cell.

Pure: values in, something to print out. Not here: reading them from a run (`statistics_report.py`).
"""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aggregator.statistics_report import StatisticsReport
from shared.statistics_task import CategoryStatistics, Histogram, NumberStatistics

__all__ = ["statistics_table"]

BAR = 20
"""Characters of the longest bar."""


def statistics_table(report: StatisticsReport) -> RenderableType:
    """Return the table, and below it over whom it is and how exact."""
    found = report.statistics
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("column")
    for name in ("rows", "missing", "mean", "deviation"):
        table.add_column(name, justify="right")
    table.add_column("of them", no_wrap=True)
    for name, column in found.columns.items():
        match column:
            case NumberStatistics():
                bins = None if column.histogram is None else _bars(_labelled(column.histogram))
                deviation = None if column.variance is None else column.variance**0.5
                cells = [str(column.count), str(column.missing), _number(column.mean), _number(deviation)]
            case CategoryStatistics():
                n_known = sum(column.counts.values()) + column.other
                bins = _bars({**column.counts, "(other)": column.other})
                cells = [str(n_known), str(column.missing), "", ""]
        table.add_row(Text(name), *cells, bins or Text())
    counts = "counts are exact" if found.is_exact else "counts are right to seven digits"
    foot = f"{found.rows} rows on {found.n_devices} devices: version {report.version} of {report.run}; {counts}"
    if any(
        isinstance(each, NumberStatistics) and each.count and each.variance is None for each in found.columns.values()
    ):
        foot += "\ndeviations come with the next round, around the means of this one: stop.rounds = 2"
    return Group(table, Text(foot, style="dim"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _labelled(histogram: Histogram) -> dict[str, int]:
    edges = [f"{edge:g}" for edge in histogram.edges]
    bins = {f"{low} to {high}": n for low, high, n in zip(edges, edges[1:], histogram.counts, strict=False)}
    return {f"below {edges[0]}": histogram.under, **bins, f"above {edges[-1]}": histogram.over}


def _bars(counts: Mapping[str, int]) -> Text:
    """Return a line a bin; those beside the bins only where there is something in them."""
    outside = [name for name in counts if name == "(other)" or name.startswith(("below ", "above "))]
    shown = {name: n for name, n in counts.items() if n or name not in outside}
    longest = max(shown.values(), default=0) or 1
    name_width, count_width = max(map(len, shown), default=0), len(str(longest))
    lines = (
        f"{name:{name_width}}  {n:{count_width}}  {'█' * round(BAR * n / longest)}".rstrip()
        for name, n in shown.items()
    )
    return Text("\n".join(lines))
