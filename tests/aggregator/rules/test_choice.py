"""The rule that the settings name: ours, a user's own, and what a user's own may do wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.rule_settings import RuleSettings
from aggregator.rules import Cohort, load_cohort_rule, rule_of
from shared.errors import ConfigError, InvalidState
from tests.aggregator.rules.cohorts import InMemory, combined, honest


def test_normalising_needs_to_know_what_is_trainable() -> None:
    """A buffer is no step."""
    with pytest.raises(InvalidState):
        rule_of(None, lambda n_params: InMemory(), normalize="steps")


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ({"name": "median"}, "Median"),
        ({"name": "trimmed-mean", "byzantine": 1}, "TrimmedMean"),
        ({"name": "krum", "byzantine": 1}, "Krum"),
        ({"name": "multi-krum", "byzantine": 1}, "Krum"),
        ({"name": "bulyan", "byzantine": 1}, "Bulyan"),
        ({"name": "geometric-median"}, "GeometricMedian"),
        ({"name": "centered-clipping", "radius": 1.0}, "CenteredClipping"),
        ({"name": "median", "mixing": "nearest", "byzantine": 1}, "NearestNeighbourMixing"),
    ],
)
def test_every_name_has_its_rule(table: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """And combines a cohort through the triple that the engine calls, as it does by itself."""
    rule = load_cohort_rule(RuleSettings.model_validate(table), tmp_path)
    assert rule is not None
    assert type(rule).__name__ == kind
    updates = honest(9, 70)
    through = rule_of(rule, lambda n_params: InMemory())
    state = through.init(70)
    for update in updates:
        through.accumulate(state, [(0, update[:50]), (50, update[50:])], 1.0)
    assert state.n_updates == 9
    assert (through.finalize(state) == combined(rule, updates)).all()


def test_the_mean_streams(tmp_path: Path) -> None:
    """It needs no rows."""
    assert load_cohort_rule(RuleSettings(), tmp_path) is None


OWN = """
class Half:
    def combine(self, cohort):
        import numpy as np
        found = np.empty(cohort.n_params)
        for start, block in cohort.blocks():
            found[start:start + block.shape[1]] = block.mean(axis=0) / 2
        return found
rule = Half()
class Wrong:
    def combine(self, cohort):
        return {what}
wrong = Wrong()
class Picky(Half):
    def check(self, n):
        raise ValueError("too few for me")
picky = Picky()
class Without:
    pass
without = Without()
"""


def own(tmp_path: Path, name: str, what: str = "None") -> Any:
    """Load a user's rule from a file of its own."""
    module = f"own_rules_{abs(hash(what))}"
    (tmp_path / f"{module}.py").write_text(OWN.replace("{what}", what))
    return load_cohort_rule(RuleSettings(name=f"{module}:{name}"), tmp_path)


def test_one_of_ones_own_is_called(tmp_path: Path) -> None:
    """By "module:name", from beside the TOML."""
    updates = honest(4, 30)
    assert combined(own(tmp_path, "rule"), updates) == pytest.approx(updates.mean(axis=0) / 2, abs=1e-6)


def test_one_without_combine_is_refused_by_name(tmp_path: Path) -> None:
    """Before the run begins."""
    with pytest.raises(ConfigError, match="combine"):
        own(tmp_path, "without")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("[1.0]", r"returned \[1\] for 3 parameters"),
        ("[float('nan')] * cohort.n_params", "NaN or Inf"),
        ("[-1e300] * cohort.n_params", "1e\\+300, which is no float32"),
        ("1 / 0", "ZeroDivisionError"),
        ("exit(5)", "SystemExit: 5"),
        ("[1j] * cohort.n_params", "complex numbers"),
        ("'three'", "ValueError"),
    ],
)
def test_what_is_no_delta_is_refused_by_name(tmp_path: Path, what: str, said: str) -> None:
    """The run pauses with it, and nothing was changed."""
    rule = own(tmp_path, "wrong", what)
    with pytest.raises(ConfigError, match=said) as caught:
        rule.combine(Cohort(InMemory(list(honest(3, 3))), 3, np.ones(3)))
    assert "nothing was changed" in str(caught.value)


def test_a_check_of_ones_own_refuses_by_name(tmp_path: Path) -> None:
    """Whatever it raises becomes the cause of a pause."""
    with pytest.raises(ConfigError, match="refuses 4 updates: ValueError: too few for me"):
        combined(own(tmp_path, "picky", "'picky'"), honest(4, 3))
