"""Each optimizer has its own keys and defaults."""

from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.optimizer_settings import BUILT_IN_OPTIMIZERS, OptimizerSettings


@pytest.mark.parametrize(("name", "defaults"), BUILT_IN_OPTIMIZERS.items())
def test_what_is_left_out_is_filled_in(name: str, defaults: dict[str, float]) -> None:
    """So that the journal says with what a version was made; no key that the optimizer has not."""
    found = OptimizerSettings.model_validate({"name": name}).model_dump(exclude={"name", "schedule"})
    assert {key: value for key, value in found.items() if value is not None} == defaults


def test_bare_name_is_short_for_a_table() -> None:
    """Defaults included."""
    assert OptimizerSettings.model_validate("adam") == OptimizerSettings(name="adam")


def test_what_is_given_stays() -> None:
    """Zero is a value, too."""
    found = OptimizerSettings(name="adam", learning_rate=0.5, beta_1=0.0)
    assert (found.learning_rate, found.beta_1, found.beta_2) == (0.5, 0.0, 0.99)


def test_settings_read_back_are_the_same() -> None:
    """As a restart reads them from the journal."""
    for name in (*BUILT_IN_OPTIMIZERS, "mine:it"):
        settings = OptimizerSettings(name=name)
        assert OptimizerSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"momentum": 0.9}, "sgd has no use for momentum"),
        ({"name": "sgd", "tau": 0.1}, "sgd has no use for tau"),
        ({"name": "fedavgm", "beta_1": 0.9}, "fedavgm has no use for beta_1.*it has learning_rate, momentum"),
        ({"name": "adagrad", "beta_2": 0.9}, "adagrad has no use for beta_2"),
        ({"name": "adam", "momentum": 0.9}, "adam has no use for momentum"),
        ({"name": "mine:it", "momentum": 0.9}, "mine:it has no use for momentum"),
        ({"name": "adamw"}, "there is no such optimizer; did you mean adam\\? there are sgd, fedavgm, adagrad"),
        ({"name": "fedavgm", "momentum": 1.0}, "momentum\n.*less than 1"),
        ({"name": "yogi", "tau": 0.0}, "tau\n"),
        ({"name": "adam", "tau": 1e30}, "tau\n"),
        ({"name": "adam", "beta_2": -0.1}, "beta_2\n"),
    ],
)
def test_key_without_use_or_out_of_bounds_is_refused(given: dict[str, Any], said: str) -> None:
    """By its name."""
    with pytest.raises(ValidationError, match=said):
        OptimizerSettings(**given)
