import pytest

from aggregator.reweighting import CAP, finishing_factor
from shared.errors import InvalidState


@pytest.mark.parametrize(("chance", "factor"), [(1.0, 1.0), (0.25, 4.0), (0.5, 2.0), (0.01, CAP)])
def test_update_counts_by_the_inverse_of_its_devices_chance(chance: float, factor: float) -> None:
    """Up to the cap."""
    assert finishing_factor(chance) == factor


def test_expected_weight_is_the_same_for_everybody() -> None:
    """Who finishes with chance p, and counts 1/p then, counts 1 on average; above the cap's bound exactly."""
    for chance in (0.1, 0.3, 0.9, 1.0):
        assert chance * finishing_factor(chance) == pytest.approx(1.0)


@pytest.mark.parametrize("chance", [0.0, -0.1, 1.1])
def test_what_is_no_chance_is_our_own_bug(chance: float) -> None:
    """It would make weights negative, or infinite."""
    with pytest.raises(InvalidState):
        finishing_factor(chance)
