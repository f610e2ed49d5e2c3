from edge_client.eligibility import Conditions, Refusal, refusal_of
from shared.errors import Reason


def low_battery(conditions: Conditions) -> Refusal | None:
    """A rule for which unknown means mains."""
    if conditions.battery is not None and conditions.battery < 0.2:
        return Refusal(Reason.NOT_ELIGIBLE, f"battery at {conditions.battery:.0%}")
    return None


def never(conditions: Conditions) -> Refusal | None:
    """A rule that refuses always."""
    return Refusal(Reason.NOT_ELIGIBLE, "never")


def test_no_rule_means_eligible() -> None:
    """A device without rules takes part, whatever its conditions."""
    assert refusal_of(Conditions(battery=0.0, load=99.0), ()) is None


def test_first_refusal_counts() -> None:
    """The rules are asked in order, and unknown conditions are each rule's own affair."""
    assert refusal_of(Conditions(battery=0.1), (low_battery, never)) == Refusal(Reason.NOT_ELIGIBLE, "battery at 10%")
    assert refusal_of(Conditions(), (low_battery,)) is None


def test_only_known_conditions_travel() -> None:
    """What could not be read is not sent; free memory has a field of its own."""
    assert Conditions().to_wire() == {}
    known = Conditions(free_memory_bytes=1, load=0.5, battery=1.0, is_charging=True)
    assert known.to_wire() == {"load": 0.5, "battery": 1.0, "is_charging": True}
