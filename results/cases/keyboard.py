"""Keyboard: nineteen phones and the next character."""

from collections.abc import Sequence
from typing import Any

from results.case import Found, Section
from results.use_section import draw_use, use_section
from results.uses import Baseline, Measure, Use

__all__ = ["case"]


class Keyboard(Use):
    """See `Case`."""

    title = "The phone keyboard"
    place = 1

    def section(self, found: Found) -> Section:
        """See `Case`."""
        text = [
            "Nineteen phones learn which character comes next, each from its own family of help topics "
            "([the use](uses/keyboard.md)); a fold holds out a fifth of each phone's text. Less than all of them take "
            "part in a round. The measure is bits a character: how many yes-or-no questions a character is worth."
        ]
        return use_section(self, found, text)

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """See `Case`."""
        draw_use(self, found, axes)


case = Keyboard(
    name="keyboard",
    measures=(Measure(name="bits_per_character", title="bits a character", is_error=True, unit="%"),),
    chosen_by="bits_per_character",
    seeds_draw="folds",
    # of rates from 1/3 to 2, batches of 8 and 16, and passes to twice as many: the best on fold 0
    alone=Baseline(rates=(2.0,), passes=(0.25, 0.5)),
    central=Baseline(rates=(4 / 3,), passes=(0.5, 1.0), batch_size=16),
)
