"""Card fraud: ten banks and one fraud in two hundred payments."""

from collections.abc import Sequence
from typing import Any

from results.case import Found, Section
from results.use_section import draw_use, use_section
from results.uses import Baseline, Measure, Use

__all__ = ["case"]


class Fraud(Use):
    """See `Case`."""

    title = "Card fraud"
    place = 3

    def section(self, found: Found) -> Section:
        """See `Case`."""
        text = [
            "Ten banks learn to stop card fraud on generated payments, each seeing mostly other tricks than the rest, "
            "by SCAFFOLD and momentum on the server ([the use](uses/fraud.md)). A fold holds out a fifth of each "
            "bank's payments, with some 120 frauds over all banks and three at the smallest: precision and recall at a "
            "fixed threshold are noisy by bank. f1 is their harmonic mean; the loss is that of the stated chances."
        ]
        return use_section(self, found, text)

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """See `Case`."""
        draw_use(self, found, axes)


case = Fraud(
    name="fraud",
    measures=(
        Measure(name="precision", title="precision", of="all"),
        Measure(name="recall", title="recall", of="all"),
        Measure(name="f1", title="f1", of="both"),
        Measure(name="loss", title="loss", is_error=True, unit="%", of="both"),
    ),
    chosen_by="loss",
    seeds_draw="data",
    alone=Baseline(passes=(0.25, 0.5, 1.0)),
    central=Baseline(passes=(0.25, 0.5, 1.0)),
)
