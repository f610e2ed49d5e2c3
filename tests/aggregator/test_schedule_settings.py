"""Each schedule has its own keys."""

from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.schedule_settings import ScheduleSettings


def test_what_is_left_out_is_filled_in() -> None:
    """The least that it falls to; a schedule that has none, has none."""
    assert ScheduleSettings().numbers == {}
    assert ScheduleSettings(name="exponential", factor=0.9).numbers == {"factor": 0.9, "least": 1e-6}
    assert ScheduleSettings(name="cosine", versions=10).numbers == {"versions": 10, "least": 0.01}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"factor": 0.5}, "constant has no use for factor: leave it out; it has warm_up"),
        ({"name": "exponential"}, "exponential needs factor"),
        ({"name": "exponential", "factor": 0.5, "every": 3}, "exponential has no use for every"),
        ({"name": "step", "factor": 0.5}, "step needs every"),
        ({"name": "cosine"}, "cosine needs versions"),
        ({"name": "cosine", "versions": 9, "factor": 0.5}, "cosine has no use for factor"),
        ({"name": "mine:schedule", "factor": 0.5}, "mine:schedule has no use for factor"),
        ({"name": "linear"}, "there is no such schedule; there are constant, exponential, step, cosine, or your own"),
        ({"name": "exponential", "factor": 1.5}, "factor\n"),
        ({"name": "cosine", "versions": 9, "least": 0.0}, "least\n"),
        ({"warm_up": -1}, "warm_up\n"),
    ],
)
def test_key_without_use_missing_or_out_of_bounds_is_refused(given: dict[str, Any], said: str) -> None:
    """By its name."""
    with pytest.raises(ValidationError, match=said):
        ScheduleSettings(**given)


def test_bare_name_is_short_for_a_table() -> None:
    """And where that lacks something, the message shows one that has it."""
    assert ScheduleSettings.model_validate("mine:schedule") == ScheduleSettings(name="mine:schedule")
    with pytest.raises(ValidationError, match='name = "cosine", versions = 200'):
        ScheduleSettings.model_validate("cosine")
