"""What devices train with, and what the server steps with."""

from collections.abc import Callable
from typing import Any

import pytest

from aggregator.events import ResumeAsked
from aggregator.learning_rates import LearningRates, built_in_rates
from aggregator.phases import PauseCause, Phase
from aggregator.records import LeaseRecord
from aggregator.round_machine import RoundMachine
from aggregator.schedules import Constant
from shared.errors import ConfigError
from shared.messages import WorkOrder
from tests.aggregator.builders import SIX, UPDATE_BYTES, Engine, rows, some_settings

HALVED = {"name": "exponential", "factor": 0.5}


class Mine:
    """A schedule of a user's own."""

    def __init__(self, factor: Callable[[int], Any]) -> None:
        self._factor = factor

    def factor(self, version: int) -> float:
        """See `Schedule`."""
        found: float = self._factor(version)
        return found


def test_rate_of_fedsgds_step_takes_the_clients_too() -> None:
    """FedSGD at version 2, η_s = 2, η = 0.1 halved a version: 2 · 0.1 / 4 = 0.05; FedAvg's devices have applied η."""
    training = {"learning_rate": 0.1, "schedule": HALVED}
    server = {"optimizer": {"learning_rate": 2.0}}
    fedsgd = built_in_rates(some_settings(training={**training, "algorithm": "fedsgd"}, server=server))
    fedavg = built_in_rates(some_settings(training=training, server=server))
    assert fedsgd.step(2) == pytest.approx(0.05)
    assert fedavg.step(2) == 2.0
    assert fedsgd.client(2) == fedavg.client(2) == pytest.approx(0.025)


def test_both_schedules_of_fedsgd_multiply() -> None:
    """Each halved a version: a quarter a version."""
    tables: dict[str, Any] = {
        "training": {"algorithm": "fedsgd", "learning_rate": 1.0, "schedule": HALVED},
        "server": {"optimizer": {"schedule": HALVED}},
    }
    rates = built_in_rates(some_settings(**tables))
    assert [rates.step(version) for version in range(3)] == [1.0, 0.25, 0.0625]


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (lambda version: float("nan"), "the factor nan at version 3"),
        (lambda version: 0, "the factor 0.0 at version 3"),
        (lambda version: -0.5, "the factor -0.5 at version 3"),
        (lambda version: 1e308, "the factor 1e\\+308 at version 3"),
        (lambda version: None, "failed at version 3 with TypeError"),
        (lambda version: 1 // (version - 3), "failed at version 3 with ZeroDivisionError"),
    ],
)
def test_what_is_no_rate_is_refused_with_the_version(factor: Callable[[int], Any], said: str) -> None:
    """And with the table that names the schedule."""
    settings = some_settings(training={"learning_rate": 10.0, "schedule": {"name": "mine:it"}})
    rates = LearningRates(settings, client=Mine(factor), server=Constant())
    with pytest.raises(ConfigError, match=f"schedule 'mine:it' .*{said}") as caught:
        rates.client(3)
    assert caught.value.where == "training.schedule"


class Fragile:
    """A schedule that has no rate for version 1 until it is mended."""

    is_mended = False

    def factor(self, version: int) -> float:
        return 0.5 if self.is_mended or not version else float("nan")


def test_schedule_without_a_rate_pauses_the_run_until_it_is_mended() -> None:
    """Nobody is drawn or leased for a version that has none; then all are, with the rate that it gives."""
    settings = some_settings(training={"learning_rate": 0.4, "schedule": {"name": "mine:schedule"}})
    schedule = Fragile()
    machine = RoundMachine(settings, update_bytes=UPDATE_BYTES, lease_prefix="life")
    machine.invitations.rates = LearningRates(settings, client=schedule, server=Constant())
    engine = Engine(machine=machine)
    engine.round(*SIX)
    engine.check_in(*SIX)
    assert (engine.machine.version, engine.is_in(Phase.PAUSED)) == (1, True)
    assert "schedule 'mine:schedule' gives the factor nan at version 1" in machine.pausing.causes[PauseCause.ERROR]
    assert {row.base_version for row in engine.records if isinstance(row, LeaseRecord)} == {0}
    schedule.is_mended = True
    orders = [
        WorkOrder.model_validate_json(row.work) for row in rows(engine(ResumeAsked())) if isinstance(row, LeaseRecord)
    ]
    assert [order.learning_rate for order in orders] == [0.2] * 6
