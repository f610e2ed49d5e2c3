"""The city's sensors: thirty stations and the next six hours of traffic and air."""

from collections.abc import Sequence
from typing import Any

from results.case import Found, Section
from results.use_section import draw_use, use_section
from results.uses import Baseline, Measure, Use

__all__ = ["case"]


class Sensors(Use):
    """See `Case`."""

    title = "The city's sensors"
    place = 4

    def section(self, found: Found) -> Section:
        """See `Case`."""
        text = [
            "Thirty stations of three kinds of street forecast the next six hours of nitrogen dioxide and traffic from "
            "the last two days ([the use](uses/sensors.md)). A fold holds out a fortnight at all stations, for they "
            "have one weather. The error is the mean absolute one, of nitrogen dioxide in µg/m³ and of traffic in "
            "vehicles."
        ]
        return use_section(self, found, text)

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """See `Case`."""
        draw_use(self, found, axes)


case = Sensors(
    name="sensors",
    measures=(
        Measure(name="absolute_error", title="error of NO2", is_error=True, unit="%"),
        Measure(name="traffic_error", title="error of traffic", is_error=True, unit="%"),
    ),
    chosen_by="absolute_error",
    seeds_draw="data",
    # of rates from 2/3 to 6 and passes from 1/8 to as many: the best on a fold of one city
    alone=Baseline(rates=(2.0,), passes=(0.125, 0.25)),
    central=Baseline(rates=(2 / 3, 2.0), passes=(0.25, 0.5)),
)
