"""What wines lie in ten cellars, without a list of them leaving any: counts, means, deviations, histograms.

python -m simulator run examples/statistics.toml
"""

from examples.cellars import MEASUREMENTS, cellar
from shared.statistics_task import Category, Column, StatisticsTask, Table
from shared.task import Client

__all__ = ["task"]


def rows(client: Client) -> Table:
    """Return a client's wines by column. One without a colorimeter has NaN for every colour."""
    measured, cultivars = cellar(client)
    return {**dict(zip(MEASUREMENTS, measured.T, strict=True)), "cultivar": cultivars}


HISTOGRAMS = {"alcohol": (11.0, 12.0, 13.0, 14.0, 15.0), "color_intensity": (0.0, 2.5, 5.0, 7.5, 10.0)}

task = StatisticsTask(
    columns=[
        *(Column(name=name, edges=HISTOGRAMS.get(name, ())) for name in MEASUREMENTS),
        Category(name="cultivar", values=("Barolo", "Grignolino", "Barbera")),
    ],
    rows=rows,
    fewest_devices=8,
)
