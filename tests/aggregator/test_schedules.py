"""Learning rates over the versions: exact values, and what holds for all of them."""

from typing import Any

import pytest

from aggregator.schedule_settings import ScheduleSettings
from aggregator.schedules import Constant, Cosine, Exponential, Schedule, Steps, WarmUp, built_in_schedule
from shared.errors import InvalidState


def factors(schedule: Schedule, *versions: int) -> list[float]:
    """Return the factors of some versions."""
    return [schedule.factor(version) for version in versions]


def test_constant_is_one() -> None:
    """Whatever the version."""
    assert factors(Constant(), 0, 1, 10**9) == [1.0, 1.0, 1.0]


def test_exponential_by_hand() -> None:
    """0.5: 1, 1/2, 1/4, 1/8; and never below the least."""
    assert factors(Exponential(0.5, 1e-6), 0, 1, 2, 3) == [1.0, 0.5, 0.25, 0.125]
    assert factors(Exponential(0.5, 0.2), 2, 3, 100_000) == [0.25, 0.2, 0.2]


def test_steps_by_hand() -> None:
    """A tenth every three versions: 1 1 1, 0.1 0.1 0.1, 0.01; and never below the least."""
    assert factors(Steps(0.1, 3, 1e-6), 0, 2, 3, 5, 6) == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01], rel=1e-15)
    assert factors(Steps(0.1, 1, 0.05), 1, 2) == [0.1, 0.05]


def test_cosine_by_hand() -> None:
    """Eight versions to 0.2: 1 at the begin, cos(π/4) = √½ at a quarter, 0.6 in the middle, 0.2 from the end on."""
    expected = [1.0, 0.2 + 0.4 * (1 + 0.5**0.5), 0.6, 0.2 + 0.4 * (1 - 0.5**0.5), 0.2, 0.2]
    assert factors(Cosine(8, 0.2), 0, 2, 4, 6, 8, 1000) == pytest.approx(expected, rel=1e-15)


def test_warm_up_by_hand() -> None:
    """Three versions at 1/4, 1/2, 3/4; then the schedule from its own begin."""
    assert factors(WarmUp(3, Exponential(0.5, 1e-6)), 0, 1, 2, 3, 4, 5) == [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"name": "exponential", "factor": 0.5},
        {"name": "exponential", "factor": 1.0},
        {"name": "step", "factor": 0.1, "every": 7},
        {"name": "cosine", "versions": 40},
    ],
)
@pytest.mark.parametrize("warm_up", [0, 1, 10])
def test_every_schedule_rises_to_one_and_never_to_nothing(given: dict[str, Any], warm_up: int) -> None:
    """At the end of the warm-up it is 1, before that it rises, after that it does not; and it is over 0 for ever."""
    found = built_in_schedule(ScheduleSettings(**given, warm_up=warm_up))
    values = factors(found, *range(200))
    assert values[warm_up] == 1.0
    assert values[:warm_up] == sorted(values[:warm_up])
    assert all(value < 1.0 for value in values[:warm_up])
    assert values[warm_up:] == sorted(values[warm_up:], reverse=True)
    assert found.factor(10**9) > 0


def test_numbers_of_the_settings_reach_their_schedule() -> None:
    """And so does a user's own, which counts from the end of the warm-up."""
    assert built_in_schedule(ScheduleSettings(name="step", factor=0.5, every=2, least=0.3)).factor(9) == 0.3
    assert built_in_schedule(ScheduleSettings(name="cosine", versions=2)).factor(2) == pytest.approx(0.01)
    own = ScheduleSettings(name="mine:schedule", warm_up=2)
    assert factors(built_in_schedule(own, Exponential(0.5, 1e-6)), 1, 2, 3) == [2 / 3, 1.0, 0.5]


def test_schedule_that_was_not_loaded_is_not_asked() -> None:
    """A machine that only reads a journal has none."""
    with pytest.raises(InvalidState):
        built_in_schedule(ScheduleSettings(name="mine:schedule")).factor(0)
