from typing import Any

import pytest

from edge_client.config import EligibilitySettings
from edge_client.eligibility import Conditions, Refusal, refusal_of, rules_of
from shared.errors import Reason


def refused(conditions: Conditions, **settings: Any) -> Refusal | None:
    """Return what a device with these settings says."""
    return refusal_of(conditions, rules_of(EligibilitySettings(**settings)))


def test_no_setting_means_eligible() -> None:
    """A device without rules takes part, whatever its conditions."""
    assert refused(Conditions(battery=0.0, load=99.0, is_charging=False, is_metered=True)) is None


CASES: list[tuple[dict[str, Any], Conditions, Conditions, Refusal]] = [
    (
        {"needs_mains": True},
        Conditions(is_charging=True),
        Conditions(is_charging=False),
        Refusal(Reason.MAINS, "on battery"),
    ),
    (
        {"min_battery": 0.3},
        Conditions(battery=0.3),
        Conditions(battery=0.18),
        Refusal(Reason.BATTERY, "battery at 18.0%, under 30.0%"),
    ),
    (
        {"max_temperature_c": 70},
        Conditions(temperature_c=70.0),
        Conditions(temperature_c=81.2),
        Refusal(Reason.TEMPERATURE, "81.2 °C, over 70.0 °C"),
    ),
    (
        {"allow_metered": False},
        Conditions(is_metered=False),
        Conditions(is_metered=True),
        Refusal(Reason.METERED, "metered"),
    ),
    (
        {"max_load": 1.5},
        Conditions(load=1.5),
        Conditions(load=1.6),
        Refusal(Reason.LOAD, "load 1.60 a processor, over 1.50"),
    ),
    (
        {"min_free_memory_mb": 200},
        Conditions(free_memory_bytes=200 * 2**20),
        Conditions(free_memory_bytes=100 * 2**20),
        Refusal(Reason.MEMORY, "100.0 MiB free, under 200.0"),
    ),
    (
        {"max_data_age_h": 24},
        Conditions(data_age_s=24 * 3600.0),
        Conditions(data_age_s=36 * 3600.0),
        Refusal(Reason.STALE_DATA, "data 36.00 h old, over 24.00 h"),
    ),
    ({"hours": [[22, 6.5]]}, Conditions(hour=6.4), Conditions(hour=6.5), Refusal(Reason.HOURS, "until 22:00")),
]


@pytest.mark.parametrize(("settings", "well", "ill", "refusal"), CASES)
def test_each_rule_refuses_by_name_and_number(
    settings: dict[str, Any], well: Conditions, ill: Conditions, refusal: Refusal
) -> None:
    """The bound itself still passes; what is unknown passes, unless it is to refuse."""
    assert refused(well, **settings) is None
    assert refused(ill, **settings) == refusal
    assert refused(Conditions(), **settings) is None
    unknown = refused(Conditions(), **settings, unknown="refuse")
    assert unknown == Refusal(refusal.reason, "unknown on this machine")


@pytest.mark.parametrize(
    ("hours", "hour", "until"),
    [
        ([[22, 6]], 23.0, None),
        ([[22, 6]], 0.0, None),
        ([[22, 6]], 6.0, "until 22:00"),
        ([[9, 17]], 8.99, "until 09:00"),
        ([[9, 17]], 17.0, "until 09:00"),
        ([[1, 3], [12.5, 13]], 5.0, "until 12:30"),
        ([[1, 3], [12.5, 13]], 14.0, "until 01:00"),
        ([[0, 24]], 23.99, None),
        ([[6.999, 8]], 5.0, "until 07:00"),
        ([[23.999, 6]], 12.0, "until 00:00"),
    ],
)
def test_hours_wrap_around_midnight(hours: list[list[float]], hour: float, until: str | None) -> None:
    """A refusal says from when on the device takes part again."""
    refusal = refused(Conditions(hour=hour), hours=hours)
    assert (refusal and refusal.detail) == until


def test_first_refusal_counts() -> None:
    """One reason is told, the first that holds."""
    found = refused(Conditions(is_charging=False, battery=0.1), needs_mains=True, min_battery=0.5)
    assert found == Refusal(Reason.MAINS, "on battery")


def test_only_known_conditions_travel() -> None:
    """What could not be read is not sent; free memory has a field of its own, and everybody has a clock."""
    assert Conditions().to_wire() == {}
    known = Conditions(free_memory_bytes=1, load=0.5, battery=1.0, is_charging=True, hour=3.5, temperature_c=40.0)
    assert known.to_wire() == {"load": 0.5, "battery": 1.0, "is_charging": True, "temperature_c": 40.0}


@pytest.mark.parametrize("hours", [[[5, 5]], [[-1, 3]], [[3, 25]], [[3]]])
def test_hours_that_are_none_are_refused(hours: list[list[float]]) -> None:
    """When the settings are read."""
    with pytest.raises(ValueError, match="hours"):
        EligibilitySettings(hours=hours)
