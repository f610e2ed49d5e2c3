"""Running statistics of a cohort: nobody owns them, whatever the rule looks at."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.rule_settings import RuleSettings
from aggregator.rules import load_cohort_rule
from aggregator.rules.clipping import CenteredClipping
from aggregator.rules.cohort import CohortRule, OverCohort
from aggregator.rules.geometric_median import GeometricMedian
from aggregator.rules.krum import Bulyan, Krum
from aggregator.rules.median import Median, TrimmedMean
from aggregator.rules.mixing import NearestNeighbourMixing
from tests.aggregator.rules.cohorts import InMemory, honest


@pytest.mark.parametrize(
    "rule",
    [
        Median(),
        TrimmedMean(1),
        Krum(1, is_multi=False),
        Krum(1, is_multi=True),
        Bulyan(1),
        GeometricMedian(),
        CenteredClipping(1.0, 1),
        NearestNeighbourMixing(Krum(1, is_multi=True), 1),
        NearestNeighbourMixing(Median(), 1),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_running_statistics_are_the_median_whoever_is_chosen(rule: CohortRule) -> None:
    """One of nine lies in the buffer alone, and is the closest to all others in what is trained."""
    updates = honest(9, 6)
    updates[4, :5], updates[4, 5] = np.median(updates[:, :5], axis=0), -1e6
    over = OverCohort(rule, lambda n: InMemory(), np.arange(6) < 5)
    state = over.init(6)
    for update in updates:
        over.accumulate(state, iter([(0, update)]), 1.0)
    found = over.finalize(state)
    assert found[5] == pytest.approx(float(np.median(updates[:, 5])), abs=1e-6)
    assert np.abs(found[:5]).max() < 4


def test_what_a_rule_of_ones_own_keeps_is_not_written_to(tmp_path: Path) -> None:
    """It may return an array that nobody may write to: buffers take their median in a copy."""
    (tmp_path / "frozen_rules.py").write_text(
        "import numpy as np\n"
        "class Frozen:\n"
        "    def combine(self, cohort):\n"
        "        return np.broadcast_to(2.0, (cohort.n_params,))\n"
        "rule = Frozen()\n"
    )
    rule = load_cohort_rule(RuleSettings(name="frozen_rules:rule"), tmp_path)
    assert rule is not None
    over = OverCohort(rule, lambda n: InMemory(), np.array([True, False]))
    state = over.init(2)
    for value in (1.0, 5.0, 9.0):
        over.accumulate(state, iter([(0, np.array([0.0, value], np.float32))]), 1.0)
    assert over.finalize(state).tolist() == [2.0, 5.0]
