"""Staleness: versions between the one trained from and the one helped."""

import pytest

from aggregator.staleness import staleness
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
