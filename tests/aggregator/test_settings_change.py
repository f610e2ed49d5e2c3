"""What changed between two starts of a run, and what may not."""

from typing import Any

import pytest

from aggregator.settings_change import FIXED, changed, refuse_fixed
from shared.errors import ConfigError

OLD: dict[str, Any] = {
    "fleet": "fleet",
    "run": "digits",
    "seed": 1,
    "round": {"report_goal": 4, "window_s": {"min": 5, "max": 60}},
    "server": {"init_from": None},
}


def test_changes_are_named_by_their_dotted_keys() -> None:
    """In order, each as old -> new; a key that is new, or gone, too."""
    new = {**OLD, "round": {"report_goal": 5, "window_s": {"min": 5, "max": 90}}, "stop": {"rounds": 3}}
    assert changed(OLD, new) == {
        "round.report_goal": "4 -> 5",
        "round.window_s.max": "60 -> 90",
        "stop": "None -> {'rounds': 3}",
    }
    assert changed(OLD, OLD) == {}


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        {**OLD, "run": None},
        {**OLD, "round": {"report_goal": 9}},
        {key: value for key, value in OLD.items() if key != "server"},
    ],
)
def test_what_has_had_its_effect_may_be_left_out(new: dict[str, Any]) -> None:
    """Only another value is refused: not a default, not an old file's silence."""
    refuse_fixed(OLD, new, where="runs/digits")


def test_name_that_was_made_up_may_be_written_down() -> None:
    """A run that was named after its task and day may get that name in its settings."""
    refuse_fixed({**OLD, "run": None}, OLD, where="runs/digits")


@pytest.mark.parametrize("key", FIXED)
def test_other_value_of_what_is_fixed_is_refused_with_both_and_the_reason(key: str) -> None:
    """The operator reads what it was, why it cannot change, and what to do."""
    new = {**OLD, "server": {"init_from": "w.safetensors"}} if "." in key else {**OLD, key: 77}
    with pytest.raises(ConfigError) as caught:
        refuse_fixed(OLD, new, where="runs/digits")
    before = "none" if "." in key else OLD[key]
    for words in ("runs/digits", key, f"begun with {before}", FIXED[key], "bring the old value back"):
        assert words in str(caught.value)
