from typing import Any

import numpy as np
import pytest

from results.federated import Federated, federate, scenario_from
from results.skewed_digits import SkewedDigits
from shared.errors import ConfigError, FederationError
from simulator.scenario import Scenario

CHANGES: dict[str, Any] = {
    "seed": 1,
    "run.task": "results.skewed_digits:SkewedDigits",
    "run.training": {"epochs": 1, "batch_size": 10, "learning_rate": 0.1},
    "run.round": {"report_goal": 4, "over_selection": 1.0, "quorum": 1.0},
    "run.stop": {"metric": "accuracy", "rounds": 3},
    "devices.device.count": 4,
}


def a_scenario(**changes: Any) -> Scenario:
    """Four devices and three rounds, unless changed."""
    return scenario_from(None, {**CHANGES, **changes})


def run_of(**changes: Any) -> Federated:
    """What comes of it."""
    return federate(a_scenario(**changes), SkewedDigits(seed=1, hidden=0))


def test_run_is_a_function_of_its_seed() -> None:
    """Twice the same bits, and others with another seed."""
    first, again, other = run_of(), run_of(), run_of(seed=2)
    assert first.curve("accuracy") == again.curve("accuracy")
    np.testing.assert_array_equal(first.parameters["out"], again.parameters["out"])
    assert not np.array_equal(first.parameters["out"], other.parameters["out"])
    assert len(first.rounds) == len(first.curve("accuracy")) == 3


def test_parameters_are_those_of_the_last_round() -> None:
    """Evaluated anew they have the accuracy that the history ends with."""
    found = run_of()
    evaluated = SkewedDigits(seed=1, hidden=0).evaluate(found.parameters, None, {})
    right, n = evaluated.metrics["accuracy"]  # type: ignore[misc]
    assert right / n == pytest.approx(found.curve("accuracy")[-1])
    assert found.n_devices == 4


def test_wrong_key_is_refused_by_name() -> None:
    """As on the command line."""
    with pytest.raises(ConfigError, match=r"training\.learning_rat = 1"):
        federate(a_scenario(**{"run.training": {"learning_rat": 1}}), SkewedDigits(seed=1))


def test_run_whose_virtual_time_is_up_is_no_result() -> None:
    """A comparison with half a run would be worth nothing."""
    with pytest.raises(FederationError, match="ended by virtual_limit"):
        run_of(virtual_limit_s=0.5)
