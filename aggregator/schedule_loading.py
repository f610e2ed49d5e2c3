"""The schedule that the settings name: one of ours, or a user's own by "module:name"."""

from pathlib import Path
from typing import cast

from aggregator.config import Settings
from aggregator.learning_rates import LearningRates
from aggregator.schedule_settings import BUILT_IN_SCHEDULES, ScheduleSettings
from aggregator.schedules import Schedule, built_in_schedule
from shared.named_objects import load_named

__all__ = ["load_rates", "load_schedule"]


def load_schedule(settings: ScheduleSettings, folder: Path) -> Schedule:
    """Return the schedule that the settings name, behind its warm-up.

    Args:
        settings: of one rate.
        folder: where a user's module is looked for first: the TOML's.

    Raises:
        ConfigError: it cannot be imported, or has no `factor`.
    """
    if settings.name in BUILT_IN_SCHEDULES:
        return built_in_schedule(settings)
    own = load_named("schedule", settings.name, folder, ("factor",), example="my_schedule:schedule")
    return built_in_schedule(settings, cast(Schedule, own))


def load_rates(settings: Settings, folder: Path) -> LearningRates:
    """Return both rates of a run over its versions.

    Args:
        settings: of the run.
        folder: as for `load_schedule`.

    Raises:
        ConfigError: a schedule cannot be imported, has no `factor`, or none that can be used at version 0.
    """
    client, server = settings.training.schedule, settings.server.optimizer.schedule
    rates = LearningRates(settings, client=load_schedule(client, folder), server=load_schedule(server, folder))
    rates.step(0)
    rates.client(0)
    return rates
