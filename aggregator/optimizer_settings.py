"""The settings of the server optimizer: the table `[server.optimizer]`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from aggregator.schedule_settings import ScheduleSettings
from aggregator.section import Section, filled_by_name, known_name

__all__ = ["BUILT_IN_OPTIMIZERS", "OptimizerSettings"]

BUILT_IN_OPTIMIZERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "sgd": {"learning_rate": 1.0},
        "fedavgm": {"learning_rate": 1.0, "momentum": 0.9},
        "adagrad": {"learning_rate": 0.1, "beta_1": 0.0, "tau": 1e-3},
        "adam": {"learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        "yogi": {"learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    }
)
"""Which keys each of ours has, and their defaults: the papers'; of adaptive learning rates those give grids only."""
_NUMBERS = ("momentum", "beta_1", "beta_2", "tau")


class OptimizerSettings(Section):
    """How the aggregated delta moves the model; `"adam"` is short for `{ name = "adam" }`."""

    name: str = Field("sgd", description="sgd, fedavgm, adagrad, adam, yogi, or module:name of one of your own")
    learning_rate: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="1.0 with sgd and fedavg: the mean of the models; adagrad: 0.1, adam, yogi: 0.01",
    )
    schedule: ScheduleSettings = ScheduleSettings()
    momentum: float | None = Field(None, ge=0, lt=1, description="fedavgm: share of the last step in the next; 0.9")
    beta_1: float | None = Field(
        None, ge=0, lt=1, description="adagrad, adam, yogi: share of the last mean delta in the next; 0.9, adagrad: 0"
    )
    beta_2: float | None = Field(None, ge=0, lt=1, description="adam, yogi: the same for the squared delta; 0.99")
    tau: float | None = Field(
        None,
        ge=1e-12,
        le=1e12,
        allow_inf_nan=False,
        description="adagrad, adam, yogi: deltas well below it move the model in proportion, larger ones alike; 0.001",
    )

    @property
    def numbers(self) -> dict[str, float]:
        """What the optimizer is made with, by name: all but the learning rate."""
        found = {key: getattr(self, key) for key in _NUMBERS}
        return {key: value for key, value in found.items() if value is not None}

    @model_validator(mode="before")
    @classmethod
    def _is_filled(cls, given: Any) -> Any:
        """Take a bare name; fill in the optimizer's own defaults."""
        return filled_by_name(given, BUILT_IN_OPTIMIZERS, default="sgd")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_name("optimizer", name, BUILT_IN_OPTIMIZERS)

    @model_validator(mode="after")
    def _has_use_for_each(self) -> Self:
        has = BUILT_IN_OPTIMIZERS.get(self.name, {"learning_rate": 1.0})
        for key in self.numbers:
            if key not in has:
                raise ValueError(f"{self.name} has no use for {key}: leave it out; it has {', '.join(has)}")
        return self
