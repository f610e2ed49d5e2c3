"""May this device take part now, and why not.

Pure: conditions in, a refusal or None out. A rule looks at the conditions and refuses or does not; what cannot be read
is unknown, and a rule decides for itself what unknown means. The refusal goes into the check-in; the aggregator then
does not ask.

Not here: reading the conditions (`conditions.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from shared.errors import Reason

__all__ = ["Conditions", "Refusal", "Rule", "refusal_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """One reading; None: unknown.

    Args:
        free_memory_bytes: what a program could still take without swapping.
        load: runnable tasks a processor, averaged over one minute.
        battery: charge in [0, 1].
        is_charging: on mains, or the battery is being charged.
    """

    free_memory_bytes: int | None = None
    load: float | None = None
    battery: float | None = None
    is_charging: bool | None = None

    def to_wire(self) -> dict[str, bool | float | str]:
        """Return what is known, as it stands in check-in and status."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        known.pop("free_memory_bytes", None)  # a field of its own in the check-in
        return known


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device does not take part."""

    reason: Reason
    detail: str = ""


Rule: TypeAlias = Callable[[Conditions], Refusal | None]


def refusal_of(conditions: Conditions, rules: Sequence[Rule]) -> Refusal | None:
    """Return the refusal of the first rule that has one; None: the device is eligible."""
    return next((refusal for rule in rules if (refusal := rule(conditions)) is not None), None)
