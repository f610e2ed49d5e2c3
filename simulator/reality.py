"""Simulator against reality: how far apart two runs of one scenario are, one in virtual time and one for real.

What is compared is what a person would decide by: the median length of a round, and the shares of leases that were
accepted, late, rejected and lost. Both are read from the runs' own journals and histories, by the same reader.

Not here: running them (`reality_command.py`), what the shares mean (`outcomes.py`).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from simulator.outcomes import ClassOutcomes, Outcomes

__all__ = ["MEDIAN_WITHIN", "SHARES_WITHIN", "Comparison"]

MEDIAN_WITHIN = 0.20
"""The simulator's median round may be this much shorter or longer than the real one, as a share of it."""
SHARES_WITHIN = 0.05
"""Each share of all leases may differ by this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs of one scenario.

    Args:
        real: with processes, a broker and faulty links.
        virtual: in virtual time.
    """

    real: Outcomes
    virtual: Outcomes

    @property
    def median_off(self) -> float:
        """How much longer the simulator's median round is, as a share of the real one; infinite without a round."""
        return self.virtual.median_s / self.real.median_s - 1 if self.real.median_s else math.inf

    @property
    def shares_off(self) -> Mapping[str, float]:
        """By how much the simulator's share of all leases is larger, for each thing that becomes of one."""
        real, virtual = self.real.total.shares(), self.virtual.total.shares()
        return {name: virtual[name] - real[name] for name in real}

    @property
    def is_within(self) -> bool:
        """Whether both came to their end, and the one foretells the other."""
        return (
            self.real.is_finished
            and self.virtual.is_finished
            and abs(self.median_off) <= MEDIAN_WITHIN
            and all(abs(off) <= SHARES_WITHIN for off in self.shares_off.values())
        )

    def lines(self) -> Iterator[str]:
        """Yield the comparison for a person."""
        yield f"{'':24}{'for real':>12}{'simulated':>12}{'apart':>10}{'at most':>10}"
        yield _line("rounds committed", self.real.committed, self.virtual.committed)
        yield _line("rounds abandoned", self.real.abandoned, self.virtual.abandoned)
        yield (
            f"{'median round, s':24}{self.real.median_s:12.2f}{self.virtual.median_s:12.2f}"
            f"{self.median_off:+10.1%}{MEDIAN_WITHIN:10.0%}"
        )
        for name, off in self.shares_off.items():
            real, virtual = self.real.total.shares()[name], self.virtual.total.shares()[name]
            apart = f"{100 * off:+7.1f} pt{100 * SHARES_WITHIN:7.0f} pt"
            yield f"{f'{name}, of leases'.replace('_', ' '):24}{real:12.1%}{virtual:12.1%}{apart}"
        for kind in sorted({*self.real.by_class, *self.virtual.by_class}):
            sides = [side.by_class.get(kind, ClassOutcomes()) for side in (self.real, self.virtual)]
            yield f"  {f'{kind}, accepted':22}" + "".join(f"{side.shares()['accepted']:12.1%}" for side in sides)
        yield "the simulator foretells this fleet" if self.is_within else "THEY ARE TOO FAR APART"

    def as_json(self) -> str:
        """Return the comparison for a program."""
        sides = {"real": self.real, "virtual": self.virtual}
        return json.dumps(
            {
                **{
                    name: {
                        "committed": side.committed,
                        "abandoned": side.abandoned,
                        "median_round_s": side.median_s,
                        **side.total.shares(),
                    }
                    for name, side in sides.items()
                },
                "median_off": self.median_off if math.isfinite(self.median_off) else None,
                "shares_off": dict(self.shares_off),
                "is_within": self.is_within,
            }
        )


def _line(name: str, real: int, virtual: int) -> str:
    return f"{name:24}{real:12}{virtual:12}"
