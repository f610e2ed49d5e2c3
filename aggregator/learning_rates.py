"""The learning rates of a run over its versions: what devices train with, and what the server steps with.

Pure. Not here: the schedules (`schedules.py`).
"""

import math

from aggregator.config import Settings
from aggregator.schedules import Schedule, built_in_schedule
from shared.errors import ConfigError

__all__ = ["LearningRates", "built_in_rates"]


class LearningRates:
    """Both rates, each with its schedule.

    Args:
        settings: of the run.
        client: schedule of `training.learning_rate`.
        server: schedule of `server.optimizer.learning_rate`.
    """

    def __init__(self, settings: Settings, *, client: Schedule, server: Schedule) -> None:
        self._settings, self._client, self._server = settings, client, server

    def client(self, version: int) -> float:
        """Return η, the rate of what is trained from `version`.

        Raises:
            ConfigError: the schedule, a user's own, gives none.
        """
        training = self._settings.training
        return _rate("training", training.schedule.name, self._client, training.learning_rate, version)

    def step(self, version: int) -> float:
        """Return the rate at which the server steps when it leaves `version`.

        With η_s = 1 and FedAvg's deltas the next model is the weighted mean of the clients' models. With FedSGD a
        device returns −g_k, and McMahan et al. (arXiv 1602.05629) Algorithm 1 with E = 1, B = ∞, w ← w − η Σ (n_k/n)
        g_k, is the same step at rate η_s · η: devices return bare gradients, and the server alone applies the client's
        rate. With any other algorithm they have applied it themselves, and it is η_s.

        Raises:
            ConfigError: a schedule, a user's own, gives none.
        """
        optimizer = self._settings.server.optimizer
        rate = _rate("server.optimizer", optimizer.schedule.name, self._server, optimizer.learning_rate, version)
        return rate * self.client(version) if self._settings.training.algorithm == "fedsgd" else rate


def built_in_rates(settings: Settings) -> LearningRates:
    """Return the rates by our own schedules; in place of a user's, one that must not be asked."""
    return LearningRates(
        settings,
        client=built_in_schedule(settings.training.schedule),
        server=built_in_schedule(settings.server.optimizer.schedule),
    )


def _rate(table: str, name: str, schedule: Schedule, rate: float, version: int) -> float:
    try:
        factor = float(schedule.factor(version))
    except Exception as error:  # a user's own may raise anything
        raise ConfigError(
            f"schedule {name!r} failed at version {version} with {type(error).__name__}: {error}",
            where=f"{table}.schedule",
        ) from error
    if not (0 < factor * rate < math.inf):
        raise ConfigError(
            f"schedule {name!r} gives the factor {factor} at version {version}, and so no rate",
            where=f"{table}.schedule",
            hint="a factor is finite and over 0",
        )
    return factor * rate
