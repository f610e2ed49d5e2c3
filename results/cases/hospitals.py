"""Hospitals: five uneven sites and a small tabular problem."""

from collections.abc import Sequence
from typing import Any

from results.case import Found, Section
from results.use_section import draw_use, use_section
from results.uses import Measure, Use

__all__ = ["case"]


class Hospitals(Use):
    """See `Case`."""

    title = "Hospitals"
    place = 2

    def section(self, found: Found) -> Section:
        """See `Case`."""
        text = [
            "Five hospitals of uneven sizes learn to tell malignant breast tumours from benign ones by logistic "
            "regression ([the use](uses/hospitals.md)). A fold holds out a fifth of each hospital's cases: some 43 "
            "malignant and 73 benign ones, so that one malignant case more or less is 2.3 points of sensitivity. The "
            "smallest site holds out six cases; devices are therefore compared by accuracy and by the loss, which "
            "tells more than whether a guess is right."
        ]
        return use_section(self, found, text)

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """See `Case`."""
        draw_use(self, found, axes)


case = Hospitals(
    name="hospitals",
    measures=(
        Measure(name="sensitivity", title="sensitivity", of="all"),
        Measure(name="specificity", title="specificity", of="all"),
        Measure(name="accuracy", title="accuracy", of="devices"),
        Measure(name="loss", title="loss", is_error=True, unit="", of="devices"),
    ),
    chosen_by="loss",
    seeds_draw="folds",
)
