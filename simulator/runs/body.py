"""What a simulated device is made of: its class, its speed, its memory and battery."""

from collections.abc import Callable
from dataclasses import dataclass

from edge_client.config import EligibilitySettings
from edge_client.eligibility import Conditions
from shared.parameters import ParameterSpec
from simulator.runs.pace import Pace
from simulator.scenario import PlannedDevice

__all__ = ["Body", "conditions_at"]

MIB = 2**20
FULL_HOUR, EMPTY_HOUR = 7.0, 22.0
"""A battery is full at seven in the morning, and nearly empty at ten in the evening, when it is plugged in."""
EMPTY = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What of a device stays the same over its lives.

    Args:
        eligibility: its own rules.
        keeps_state: whether it keeps anything of a training for the next.
        device_class: as it says of itself on the wire; None: nothing.
        pace: of its next life.
        look: reads its conditions.
        spec: of the task's model, so that not every device asks the task.
    """

    device_class: str | None
    eligibility: EligibilitySettings
    keeps_state: bool
    pace: Callable[[], Pace]
    look: Callable[[], Conditions]
    spec: ParameterSpec


def conditions_at(device: PlannedDevice, *, start_hour: float, now: Callable[[], float]) -> Conditions:
    """Return what a device can say of itself now.

    One with a battery is used from seven to ten and charged at night; where its availability says when it charges, it
    is there only while it does. Load, temperature and the rest are unknown.

    Args:
        device: whose.
        start_hour: hour of the day at which the run begins.
        now: seconds of the loop.
    """
    kind = device.device_class
    hour = (start_hour + now() / 3600) % 24
    is_day = FULL_HOUR <= hour < EMPTY_HOUR
    since = (hour - (FULL_HOUR if is_day else EMPTY_HOUR)) % 24
    used = since / (EMPTY_HOUR - FULL_HOUR) if is_day else 1 - since / (24 - EMPTY_HOUR + FULL_HOUR)
    return Conditions(
        free_memory_bytes=None if kind.memory_mb is None else kind.memory_mb * MIB,
        battery=round(1 - (1 - EMPTY) * used, 3) if kind.has_battery else None,
        is_charging=not kind.has_battery or not is_day or device.availability.charging is not None,
        hour=hour,
    )
