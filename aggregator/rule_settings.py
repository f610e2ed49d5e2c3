"""The settings of the aggregation rule: `server.rule`, a name or a table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from aggregator.section import Section, known_name

__all__ = ["STREAMING_RULES", "RuleSettings"]

STREAMING_RULES = ("mean",)
"""Rules that forget an update as soon as it was added; all others see the cohort side by side."""
_HAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mean": (),
        "median": ("mixing",),
        "trimmed-mean": ("byzantine", "mixing"),
        "krum": ("byzantine", "mixing"),
        "multi-krum": ("byzantine", "mixing"),
        "bulyan": ("byzantine", "mixing"),
        "geometric-median": ("mixing",),
        "centered-clipping": ("radius", "iterations", "mixing"),
    }
)
"""Which keys each of ours has."""
_NEEDED = ("byzantine", "radius")
_OWN = ("byzantine", "mixing")
ITERATIONS = 3


class RuleSettings(Section):
    """How many updates become one delta; `"median"` is short for `{ name = "median" }`."""

    name: str = Field(
        "mean",
        description="mean, median, trimmed-mean, krum, multi-krum, bulyan, geometric-median, centered-clipping, or "
        "module:name of one of your own",
    )
    byzantine: int | None = Field(
        None, ge=0, le=1_000_000, description="f: updates of one version that may be anything, at most"
    )
    mixing: Literal["none", "nearest"] = Field(
        "none", description="nearest: each update is first averaged with the n - byzantine closest to it"
    )
    radius: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="centered-clipping: 2-norm at which a difference is clipped"
    )
    iterations: int | None = Field(
        None, ge=1, le=1000, description=f"centered-clipping: times that the centre moves; {ITERATIONS}"
    )

    @property
    def numbers(self) -> Mapping[str, Any]:
        """What is set beside the name."""
        return {key: each for key, each in self if key != "name" and each not in (None, "none")}

    @property
    def is_streaming(self) -> bool:
        """Whether updates are added one by one, in O(model)."""
        return self.name in STREAMING_RULES

    @model_validator(mode="before")
    @classmethod
    def _is_filled(cls, given: Any) -> Any:
        """Take a bare name; fill in the rule's own default, so that the journal holds what a run was made with."""
        table = {"name": given} if isinstance(given, str) else given
        if isinstance(table, Mapping) and table.get("name") == "centered-clipping":
            return {"iterations": ITERATIONS, **{key: value for key, value in table.items() if value is not None}}
        return table

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name in ("clipping", "norm-clipping"):
            raise ValueError("norms are clipped for every rule: server.clip_norm says to which")
        return known_name("rule", name, _HAS)

    @model_validator(mode="after")
    def _has_use_for_each(self) -> Self:
        has = _HAS.get(self.name, _OWN)
        for key in has:
            if key in _NEEDED and self.name in _HAS and getattr(self, key) is None:
                raise ValueError(f"{self.name} needs {key}")
        if self.mixing != "none":
            if self.byzantine is None:
                raise ValueError("mixing needs byzantine")
            has = (*has, "byzantine")
        for key in self.numbers:
            if key not in has:
                raise ValueError(f"{self.name} has no use for {key}: leave it out")
        return self
