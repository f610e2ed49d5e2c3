"""The rule that the settings name."""

import pytest

from aggregator.rules import rule_named
from shared.errors import ConfigError, InvalidState


def test_rule_that_does_not_exist_is_named_with_those_that_do() -> None:
    """The operator reads what is allowed."""
    with pytest.raises(ConfigError, match=r"(?s)'median'.*mean"):
        rule_named("median")


def test_normalising_needs_to_know_what_is_trainable() -> None:
    """A buffer is no step."""
    with pytest.raises(InvalidState):
        rule_named("mean", normalize="steps")
