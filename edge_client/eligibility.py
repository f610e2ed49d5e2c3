"""May this device take part now, and why not.

Pure: conditions in, a refusal or None out. What cannot be read is unknown; it passes, unless the operator says that
unknown refuses. A refusal goes into the check-in and the status, and the aggregator then does not ask. Work that has
begun is finished: a rule says who is asked, not who is stopped.

Not here: reading the conditions (`conditions.py`), the settings themselves (`config.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from edge_client.config import EligibilitySettings
from shared.errors import Reason

__all__ = ["Conditions", "Refusal", "Rule", "refusal_of", "rules_of"]

MIB = 2**20
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """One reading; None: unknown.

    Args:
        free_memory_bytes: what a program could still take without swapping.
        load: runnable tasks a processor, averaged over one minute.
        battery: charge in [0, 1].
        is_charging: on mains, or the battery is being charged.
        temperature_c: of the hottest part that says so, in degrees Celsius.
        is_metered: the way to the internet costs by the byte.
        data_age_s: since the newest of the device's data was written, in seconds.
        hour: of the local day, in [0, 24).
    """

    free_memory_bytes: int | None = None
    load: float | None = None
    battery: float | None = None
    is_charging: bool | None = None
    temperature_c: float | None = None
    is_metered: bool | None = None
    data_age_s: float | None = None
    hour: float | None = None

    def to_wire(self) -> dict[str, bool | float | str]:
        """Return what is known, as it stands in check-in and status."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        known.pop("free_memory_bytes", None)  # a field of its own in the check-in
        known.pop("hour", None)  # everybody has a clock
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


def rules_of(settings: EligibilitySettings) -> Sequence[Rule]:
    """Return the rules that an operator has set, what a person can change soonest first."""
    rules: list[Rule] = []

    def refuse_unless(reason: Reason, look: Callable[[Conditions], str | None]) -> None:
        """Add a rule; `look` returns what is wrong, "" when all is well, None when it is unknown."""

        def rule(conditions: Conditions) -> Refusal | None:
            found = look(conditions)
            if found is None:
                return Refusal(reason, "unknown on this machine") if settings.unknown == "refuse" else None
            return Refusal(reason, found) if found else None

        rules.append(rule)

    if settings.needs_mains:
        refuse_unless(Reason.MAINS, lambda c: _unless(c.is_charging, "on battery"))
    if (least := settings.min_battery) is not None:
        refuse_unless(Reason.BATTERY, lambda c: _under(c.battery, least, "battery at {:.1%}, under {:.1%}"))
    if (hottest := settings.max_temperature_c) is not None:
        refuse_unless(Reason.TEMPERATURE, lambda c: _over(c.temperature_c, hottest, "{:.1f} °C, over {:.1f} °C"))
    if not settings.allow_metered:
        refuse_unless(Reason.METERED, lambda c: _unless(None if c.is_metered is None else not c.is_metered, "metered"))
    if (busiest := settings.max_load) is not None:
        refuse_unless(Reason.LOAD, lambda c: _over(c.load, busiest, "load {:.2f} a processor, over {:.2f}"))
    if (least_mb := settings.min_free_memory_mb) is not None:
        refuse_unless(
            Reason.MEMORY,
            lambda c: _under(_scaled(c.free_memory_bytes, MIB), least_mb, "{:.1f} MiB free, under {:.1f}"),
        )
    if (oldest_h := settings.max_data_age_h) is not None:
        refuse_unless(
            Reason.STALE_DATA,
            lambda c: _over(_scaled(c.data_age_s, HOUR_S), oldest_h, "data {:.2f} h old, over {:.2f} h"),
        )
    if settings.hours:
        refuse_unless(Reason.HOURS, lambda c: _outside(c.hour, settings.hours))
    return rules


def _unless(is_well: bool | None, wrong: str) -> str | None:
    return None if is_well is None else "" if is_well else wrong


def _under(value: float | None, least: float, wrong: str) -> str | None:
    return None if value is None else wrong.format(value, least) if value < least else ""


def _over(value: float | None, most: float, wrong: str) -> str | None:
    return None if value is None else wrong.format(value, most) if value > most else ""


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _outside(hour: float | None, hours: Sequence[tuple[float, float]]) -> str | None:
    """Return when the device takes part again, "" when it does now; [22, 6] runs past midnight."""
    if hour is None:
        return None
    if any(start <= hour < end if start < end else hour >= start or hour < end for start, end in hours):
        return ""
    begins_min = round(min(hours, key=lambda each: (each[0] - hour) % 24)[0] * 60) % (24 * 60)
    return f"until {begins_min // 60:02d}:{begins_min % 60:02d}"
