"""Staleness: versions between the one trained from and the one helped."""

import pytest

from aggregator.staleness import discount, staleness
from shared.errors import InvalidState


@pytest.mark.parametrize(("into", "base", "expected"), [(1, 0, 0), (8, 7, 0), (8, 5, 2), (50, 0, 49)])
def test_staleness_counts_versions_in_between(into: int, base: int, expected: int) -> None:
    """An update from the version before is fresh: 0."""
    assert staleness(into, base) == expected


@pytest.mark.parametrize(("into", "base"), [(1, 1), (1, 2)])
def test_update_from_the_future_is_our_own_bug(into: int, base: int) -> None:
    """Nobody can have trained from a version that does not exist."""
    with pytest.raises(InvalidState):
        staleness(into, base)


@pytest.mark.parametrize(
    ("versions", "exponent", "expected"), [(0, 0.5, 1.0), (3, 0.5, 0.5), (1, 1.0, 0.5), (9, 0.0, 1.0)]
)
def test_late_update_counts_less(versions: int, exponent: float, expected: float) -> None:
    """(1 + 3)^-0.5 is a half; an exponent of 0 ignores staleness."""
    assert discount(versions, exponent) == expected
