"""The settings of what is learned and how updates combine: the tables `[training]` and `[server]`.

Not here: when a round is enough, who is asked, and the rest of the TOML (`config.py`).
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from aggregator.optimizer_settings import OptimizerSettings
from aggregator.rule_settings import RuleSettings
from aggregator.schedule_settings import ScheduleSettings
from aggregator.section import Seconds, Section, no_such
from shared.codecs import CODECS, NOT_INSTALLED
from shared.wire_fields import MAX_EXAMPLES, Options

__all__ = ["AUTO", "ServerSettings", "TrainingSettings"]

AUTO = "auto"
"""Of `training.codec`: the aggregator chooses for each lease (`codec_choice.py`)."""


class TrainingSettings(Section):
    """What a device is asked to do."""

    algorithm: Literal["fedavg", "fedsgd", "fedprox", "scaffold", "feddyn", "qfedavg"] = Field(
        "fedavg",
        description="fedsgd: one gradient over all its examples; fedprox, scaffold, feddyn: against drift; "
        "qfedavg: fair to the worst off ([when which](docs/learning.md#device-algorithms))",
    )
    epochs: int | None = Field(
        None, ge=1, le=1_000_000, description="passes over a device's data; this or max_steps; default 1"
    )
    max_steps: int | None = Field(None, ge=1, le=1_000_000_000, description="optimizer steps; this or epochs")
    max_seconds: Seconds | None = Field(
        None, description="training ends after that many seconds, finished or not; semi-sync: window_s.max / 2"
    )
    batch_size: int | None = Field(None, ge=1, le=MAX_EXAMPLES, description="examples a step; unset: full batch")
    learning_rate: float = Field(0.1, gt=0, allow_inf_nan=False, description="of the client optimizer")
    mu: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="fedprox: the pull towards the received model; 0: fedavg"
    )
    alpha: float | None = Field(
        None,
        ge=1e-12,
        allow_inf_nan=False,
        description="feddyn: the pull towards the received model; 0.01 to 1 is usual",
    )
    q: float | None = Field(
        None, ge=0, le=10, description="qfedavg: how much more the worst off count; 0: all alike; 0.1 to 5 is usual"
    )
    schedule: ScheduleSettings = ScheduleSettings()
    codec: str = Field(
        AUTO,
        description="how updates are encoded: auto (by each device's link), float32, float16, int8, int8-zstd, "
        "one-bit, top-1-percent ([which](docs/learning.md#codecs))",
    )
    options: Options = Field({}, description="your own numbers, handed to the task as they are")

    @field_validator("algorithm", mode="before")
    @classmethod
    def _is_no_way_to_combine(cls, algorithm: object) -> object:
        if algorithm == "fednova":
            raise ValueError('FedNova is server.normalize = "steps" here, with algorithm = "fedavg"')
        return algorithm

    @field_validator("codec")
    @classmethod
    def _is_known(cls, codec: str) -> str:
        if codec != AUTO and codec not in CODECS:
            raise ValueError(NOT_INSTALLED.get(codec, no_such("codec", codec, (AUTO, *CODECS))))
        return codec

    @model_validator(mode="after")
    def _is_one_measure(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps exclude each other: keep one")
        if self.algorithm == "fedsgd" and (self.epochs or self.max_steps or self.batch_size):
            raise ValueError("fedsgd is one full pass a round: leave out epochs, max_steps and batch_size")
        if self.algorithm == "scaffold" and self.codec != AUTO and CODECS[self.codec].needs_feedback:
            raise ValueError(
                f"what scaffold lets travel leaves no place for the delta in {self.codec}: use int8 or float32"
            )
        return self

    @model_validator(mode="after")
    def _is_of_the_algorithm(self) -> Self:
        numbers = (("mu", "fedprox", self.mu), ("alpha", "feddyn", self.alpha), ("q", "qfedavg", self.q))
        for key, algorithm, value in numbers:
            if value is not None and self.algorithm != algorithm:
                raise ValueError(f"{key} is of {algorithm} alone, and algorithm = {self.algorithm}: leave it out")
            if value is None and self.algorithm == algorithm:
                raise ValueError(f"{algorithm} needs {key}: {'0.1 to 5' if key == 'q' else '0.01 to 1'} is usual")
            if value is not None and key != "q" and value * self.learning_rate > 1:
                raise ValueError(
                    f"{key} x learning_rate = {value * self.learning_rate:g} is over 1: every step would overshoot the "
                    "received model; lower either"
                )
        return self


class ServerSettings(Section):
    """How updates combine."""

    rule: RuleSettings = RuleSettings()
    normalize: Literal["none", "steps"] = Field(
        "none", description="steps: an update counts by the step, whoever took more of them (FedNova); semi-sync: steps"
    )
    weighting: Literal["examples", "uniform"] = Field("examples", description="examples: by num_examples (n_k/n)")
    reweight: Literal["off", "finishing"] = Field(
        "off",
        description="finishing: an update counts 1/p, at most 10 times, p being its device's chance of finishing, so "
        "that devices on mains power and fast links do not own the model",
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    population: int | None = Field(
        None,
        ge=1,
        description="scaffold, feddyn: devices over which the server's part is a mean, at least; unset: those with an "
        "update that counted so far",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="an update with a larger 2-norm is scaled down to it; unset: none is",
    )
    max_norm: float | None = Field(None, gt=0, description="an update with a larger 2-norm is rejected; unset: none is")
    init_from: Path | None = Field(
        None, description="warm start from this safetensors file; names must match the model's"
    )

    @model_validator(mode="after")
    def _clips_what_it_accepts(self) -> Self:
        if self.clip_norm is not None and self.max_norm is not None and self.clip_norm >= self.max_norm:
            raise ValueError(
                f"clip_norm = {self.clip_norm:g} never acts, for updates over max_norm = {self.max_norm:g} are "
                "rejected: clip_norm is the smaller one, or leave one of them out"
            )
        return self
