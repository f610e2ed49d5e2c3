from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.learning_settings import ServerSettings
from aggregator.rule_settings import RuleSettings


def test_a_bare_name_is_short_for_a_table() -> None:
    """And the journal holds the table, with the defaults that the run was made with."""
    assert ServerSettings.model_validate({"rule": "median"}).rule == RuleSettings(name="median")
    found = RuleSettings.model_validate({"name": "centered-clipping", "radius": 2.0})
    assert found.iterations == 3


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "medain"}, "there is no such rule; did you mean median\\? there are mean, median"),
        ({"name": "loudest"}, "there is no such rule; there are mean, median"),
        ({"name": "norm-clipping"}, "server.clip_norm says to which"),
        ({"name": "krum"}, "krum needs byzantine"),
        ({"name": "trimmed-mean"}, "trimmed-mean needs byzantine"),
        ({"name": "centered-clipping"}, "centered-clipping needs radius"),
        ({"name": "median", "mixing": "nearest"}, "needs byzantine"),
        ({"name": "mean", "byzantine": 1}, "mean has no use for byzantine"),
        ({"name": "mean", "mixing": "nearest", "byzantine": 1}, "mean has no use for mixing"),
        ({"name": "median", "radius": 1.0}, "median has no use for radius"),
        ({"name": "mine:rule", "radius": 1.0}, "mine:rule has no use for radius"),
    ],
)
def test_what_a_rule_lacks_or_has_no_use_for_is_named(table: dict[str, Any], said: str) -> None:
    """With what to write."""
    with pytest.raises(ValidationError, match=said):
        RuleSettings.model_validate(table)
