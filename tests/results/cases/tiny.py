"""A case of a few microseconds, for tests: laid beside the real ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results.case import Found, Numbers, Run, Scale, Section, Verdict

__all__ = ["HERE", "case"]

HERE = Path(__file__).parent


class Tiny:
    """See `Case`: the arm "twice" returns 2 x seed + fold, "broken" fails."""

    title = "Twice"
    place = 1
    sources: Sequence[str] = ()

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.broken = False

    def runs(self, scale: Scale) -> Sequence[Run]:
        """See `Case`."""
        return [Run(case="tiny", arm="twice", seed=seed, fold=fold) for seed in scale.seeds for fold in scale.folds]

    def compute(self, run: Run) -> Numbers:
        """See `Case`."""
        if self.broken:
            raise ValueError("it is broken")
        self.computed.append(run.key())
        return {"twice": 2 * run.seed + run.fold, "list": [1 / 3, None, float("nan")]}

    def section(self, found: Found) -> Section:
        """See `Case`."""
        total = sum(numbers["twice"] for _, numbers in found.of("twice"))  # type: ignore[misc]
        return Section(
            text=["It is twice."],
            tables=[[("what", "value"), ("total", f"{total:g}")]],
            meaning="Twice as much is more.",
            verdicts=[
                Verdict(target="above 0", found=f"{total:g}", outcome="met" if total > 0 else "missed"),
                Verdict(target="above 1000", found=f"{total:g}", outcome="met" if total > 1000 else "missed"),
                Verdict(target="reported", found=f"{total:g}", outcome="reported"),
            ],
            picture="two points",
        )

    def draw(self, found: Found, axes: Sequence[Any]) -> None:
        """See `Case`."""
        axes[0].plot([run.seed for run, _ in found.of("twice")], [1] * len(found.runs))


case = Tiny()
