"""The settings of a learning rate's schedule: the tables `[training.schedule]` and `[server.optimizer.schedule]`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from aggregator.section import Section, filled_by_name, known_name

__all__ = ["BUILT_IN_SCHEDULES", "ScheduleSettings"]

LEAST = 1e-6
"""Of a rate that only falls: it could become 0 otherwise, and devices would work for nothing."""

BUILT_IN_SCHEDULES: Mapping[str, Mapping[str, float | None]] = MappingProxyType(
    {
        "constant": {},
        "exponential": {"factor": None, "least": LEAST},
        "step": {"factor": None, "every": None, "least": LEAST},
        "cosine": {"versions": None, "least": 0.01},
    }
)
"""Which keys each of ours has beside `warm_up`, and their defaults; None: it has to be given."""


class ScheduleSettings(Section):
    """How a learning rate goes over the versions; `"m:schedule"` is short for `{ name = "m:schedule" }`."""

    name: str = Field("constant", description="constant, exponential, step, cosine, or module:name of one of your own")
    factor: float | None = Field(
        None, gt=0, le=1, description="exponential: factor a version; step: factor every `every` versions"
    )
    every: int | None = Field(None, ge=1, le=1_000_000_000, description="step: versions from one step down to the next")
    versions: int | None = Field(
        None, ge=1, le=1_000_000_000, description="cosine: versions after which the rate is at its least"
    )
    least: float | None = Field(
        None, gt=0, le=1, description="share of the rate that it never falls below; 0.000001, cosine: 0.01"
    )
    warm_up: int = Field(
        0, ge=0, le=1_000_000_000, description="versions in which the rate rises in a line; the schedule begins then"
    )

    @property
    def numbers(self) -> dict[str, Any]:
        """What the schedule is made with, by name: all but the warm-up."""
        return {key: value for key in _KEYS if (value := getattr(self, key)) is not None}

    @model_validator(mode="before")
    @classmethod
    def _is_filled(cls, given: Any) -> Any:
        """Take a bare name; fill in the schedule's own defaults."""
        return filled_by_name(given, BUILT_IN_SCHEDULES, default="constant")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return known_name("schedule", name, BUILT_IN_SCHEDULES)

    @model_validator(mode="after")
    def _has_its_keys(self) -> Self:
        has, given = BUILT_IN_SCHEDULES.get(self.name, {}), self.numbers
        for key in given.keys() - has.keys():
            raise ValueError(f"{self.name} has no use for {key}: leave it out; it has {', '.join([*has, 'warm_up'])}")
        for key in has:
            if key not in given:
                example = ", ".join(f"{each} = {_EXAMPLES[each]}" for each in has if has[each] is None)
                raise ValueError(f'{self.name} needs {key}: {{ name = "{self.name}", {example} }}, say')
        return self


_KEYS = ("factor", "every", "versions", "least")
_EXAMPLES: Mapping[str, Any] = MappingProxyType({"factor": 0.99, "every": 50, "versions": 200})
