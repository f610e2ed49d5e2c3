"""How a metric went over what it cost: virtual time, bytes and device-seconds, a point a committed round.

Pure. Not here: reading a history (`report.py`), drawing (`pictures.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Cost", "Curve", "best_of", "reached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What had been spent when a round ended.

    Args:
        at_s: virtual seconds from the begin.
        bytes_up: that devices had sent.
        bytes_down: that devices had received.
        device_s: seconds in which devices were training or had bytes on their link.
    """

    at_s: float
    bytes_up: int
    bytes_down: int
    device_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One run.

    Args:
        name: of the run.
        metric: its name.
        is_falling: whether less is better.
        points: cost and value after each round that has one.
    """

    name: str
    metric: str
    is_falling: bool
    points: Sequence[tuple[Cost, float]]

    def axis(self, name: str) -> list[float]:
        """Return one cost of every point: "at_s", "bytes" (both ways) or "device_s"."""
        if name == "bytes":
            return [float(cost.bytes_up + cost.bytes_down) for cost, _ in self.points]
        return [float(getattr(cost, name)) for cost, _ in self.points]


def reached(curve: Curve, target: float) -> Cost | None:
    """Return what it cost until the metric was at the target for the first time; None: it never was."""
    for cost, value in curve.points:
        if value <= target if curve.is_falling else value >= target:
            return cost
    return None


def best_of(curve: Curve) -> float | None:
    """Return the best value; None when there is none."""
    values = [value for _, value in curve.points]
    return None if not values else min(values) if curve.is_falling else max(values)


def common_target(curves: Sequence[Curve], wanted: Mapping[str, float | None]) -> float | None:
    """Return the target at which runs are compared.

    Args:
        curves: of the runs.
        wanted: what each run's own settings stop at.

    Returns:
        What the first run wants; where none wants anything, the worst of their bests, which all of them reach.
    """
    own = next((target for target in wanted.values() if target is not None), None)
    if own is not None:
        return own
    bests = [best for curve in curves if (best := best_of(curve)) is not None]
    if not bests:
        return None
    return max(bests) if curves[0].is_falling else min(bests)
