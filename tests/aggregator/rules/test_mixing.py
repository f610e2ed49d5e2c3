"""Nearest-neighbour mixing: rules over mixed rows are rules over rows that were mixed by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.rules.cohort import CohortRule
from aggregator.rules.geometric_median import GeometricMedian
from aggregator.rules.krum import Bulyan, Krum
from aggregator.rules.median import Median, TrimmedMean
from aggregator.rules.mixing import NearestNeighbourMixing
from shared.errors import ConfigError
from tests.aggregator.rules.cohorts import InMemory, combined, honest

RULES = [Median(), TrimmedMean(2), Krum(2, is_multi=False), Krum(2, is_multi=True), Bulyan(2), GeometricMedian()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_sees_means_of_neighbours(rule: CohortRule) -> None:
    """Each row is the mean of the n − f updates closest to it."""
    updates = honest(11, 40)
    updates[:2] = -3
    wide = updates.astype(np.float64)
    distances = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    by_hand = np.array([wide[np.argsort(row, kind="stable")[:9]].mean(axis=0) for row in distances])
    assert combined(NearestNeighbourMixing(rule, 2), updates) == pytest.approx(combined(rule, by_hand), abs=1e-5)


def test_too_few_are_refused_by_either() -> None:
    """Its own bound, and that of the rule within."""
    with pytest.raises(ConfigError, match="nearest-neighbour mixing over 4"):
        combined(NearestNeighbourMixing(Median(), 2), honest(4, 3))
    with pytest.raises(ConfigError, match="bulyan over 8"):
        combined(NearestNeighbourMixing(Bulyan(2), 2), honest(8, 3))


def test_updates_are_read_twice_whoever_asks_for_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the inner products, of which those of mixed rows follow, and once for the sum."""
    reads: list[int] = []
    columns = InMemory.columns

    def counted(self: InMemory, start: int, stop: int) -> NDArray[np.float32]:
        reads.append(start)
        return columns(self, start, stop)

    monkeypatch.setattr(InMemory, "columns", counted)
    combined(NearestNeighbourMixing(Krum(2, is_multi=True), 2), honest(11, 40))
    assert reads == [0, 0]
