"""The aggregator's settings: one TOML, each key documented with its unit and why that default.

Every key can be overridden from the environment, `FEDMQ__ROUND__REPORT_GOAL=12`. What cannot hold together is refused
here, before anything starts.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from aggregator.algorithm_limits import contradiction, filled_for_algorithm
from aggregator.learning_settings import ServerSettings, TrainingSettings
from aggregator.modes import Mode, filled, filled_round
from aggregator.rule_limits import filled_for_rule, rule_contradiction
from aggregator.section import Seconds, Section, known_name
from broker.config import BrokerSettings
from shared.topics import NAME
from shared.wire_fields import MAX_EXAMPLES

__all__ = [
    "MAX_INLINE_BYTES",
    "EvaluationSettings",
    "OortSettings",
    "OutputSettings",
    "RoundSettings",
    "SelectionSettings",
    "Settings",
    "StopSettings",
    "TransferSettings",
    "Window",
]

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
MAX_INLINE_BYTES = 65_536
"""What SQLite keeps in a row as fast as in a file; taken whatever the setting is now, for it may have been lowered."""

BUILT_IN_RULES = ("uniform", "oort")


class Window(Section):
    """A range of seconds, `{ min = 5, max = 60 }`."""

    min: Seconds
    max: Seconds

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is over max {self.max:g}")
        return self


class RoundSettings(Section):
    """When a round is enough. `mode` fills what is unset (`modes.py`); the engine goes by the other keys alone."""

    mode: Mode = Field("sync", description="shorthand for knobs: [sync, semi-sync or async](docs/protocol.md#modes)")
    report_goal: int = Field(ge=1, le=1_000_000, description="reports that close the round")
    over_selection: float | None = Field(
        1.3, ge=1, le=10, description="invitations per report wanted, to survive drop-outs; or `outstanding`"
    )
    outstanding: int | None = Field(
        None, ge=1, le=1_000_000, description="leases that are out at any time, whatever was accepted; async: 2 x goal"
    )
    quorum: float = Field(
        0.8, gt=0, le=1, description="least share of the goal that may commit at the deadline; async: 1"
    )
    window_s: Window = Field(
        Window(min=60, max=600),
        description="reporting window in seconds; within it 1.5 x p95 of the last five rounds, of the slowest class "
        "of devices asked",
    )
    extensions: int = Field(2, ge=0, le=100, description="times the window grows by half when the quorum is missed")
    max_staleness: int = Field(
        0, ge=0, le=10_000, description="versions an update may lag and still count; semi-sync: 1, async: 50"
    )
    staleness_exponent: float = Field(
        0.5, ge=0, le=10, description="a late update counts (1 + staleness)^-a of what it would in time"
    )
    max_examples: int | None = Field(None, ge=1, description="cap on the weight one device can claim")
    lease_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="seconds a device may go without progress before its place is refilled; default: the window of "
        "its class of devices",
    )

    @property
    def quorum_count(self) -> int:
        """Reports that may commit at the deadline: ⌈quorum x goal⌉."""
        return math.ceil(round(self.quorum * self.report_goal, 9))

    def n_leases(self, n_accepted: int) -> int:
        """Return how many leases should be out when so many reports were accepted."""
        if self.outstanding is not None:
            return self.outstanding
        return math.ceil(round((self.over_selection or 1.0) * (self.report_goal - n_accepted), 9))

    @model_validator(mode="before")
    @classmethod
    def _is_filled(cls, given: Any) -> Any:
        return filled_round(given) if isinstance(given, Mapping) else given

    @field_validator("quorum", mode="before")
    @classmethod
    def _is_a_share(cls, quorum: Any) -> Any:
        if isinstance(quorum, int | float) and quorum > 1:
            raise ValueError(
                f"it is a share of report_goal, at most 1: {quorum:g} of it is over the goal, and never comes"
            )
        return quorum

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if self.outstanding is not None and self.over_selection is not None:
            raise ValueError(
                "over_selection and outstanding exclude each other, for both say how many leases are out: keep one"
                + (" (async keeps `outstanding` of them out at any time)" if self.mode == "async" else "")
            )
        if self.mode == "async" and not self.max_staleness:
            raise ValueError(
                "max_staleness = 0 cannot hold with async: work goes on while a version is made, and all of it would "
                "be discarded; 1 or more, or another mode"
            )
        if self.lease_s is not None and self.lease_s > self.window_s.max:
            raise ValueError(
                f"lease_s = {self.lease_s:g} is longer than the longest window, window_s.max = {self.window_s.max:g}: "
                "no place would be refilled before its round is over; shorten the one or widen the other"
            )
        return self


class OortSettings(Section):
    """How the rule "oort" weighs what a device teaches against its speed; the paper's numbers where it has any."""

    exploration: float = Field(0.9, ge=0, le=1, description="share of places for devices that never reported, at first")
    exploration_decay: float = Field(0.98, gt=0, le=1, description="factor on that share a round")
    exploration_min: float = Field(0.2, ge=0, le=1, description="what that share never falls below")
    cutoff: float = Field(
        0.95, ge=0, le=1, description="share of the utility at the last place that admits to the draw"
    )
    clip: float = Field(0.95, gt=0, le=1, description="percentile of the utilities at which outliers are clipped")
    penalty: float = Field(
        2.0, ge=0, le=10, description="exponent of (T/t) for a device slower than preferred; 0: none"
    )
    pacer_start: float = Field(0.3, gt=0, le=1, description="percentile of the durations that is preferred at first")
    pacer_step: float = Field(0.05, ge=0, le=1, description="what the pacer adds to it when rounds bring less")
    pacer_rounds: int = Field(20, ge=1, le=10_000, description="rounds that the pacer compares with as many before")

    @model_validator(mode="after")
    def _decays_downwards(self) -> Self:
        if self.exploration_min > self.exploration:
            raise ValueError(f"exploration_min {self.exploration_min:g} is over exploration {self.exploration:g}")
        return self


class SelectionSettings(Section):
    """Who is asked."""

    rule: str = Field(
        "uniform", description="uniform, oort (by utility: loss and speed), or module:name of a rule of your own"
    )
    min_separation: int = Field(
        1, ge=1, le=1_000_000, description="rounds from one participation of a device to its next, at least; 1: any"
    )
    max_per_day: int | None = Field(
        None, ge=1, le=100_000, description="training leases that one device is given in 24 hours, at most"
    )
    oort: OortSettings = Field(OortSettings(), description="of the rule oort alone")

    @field_validator("rule")
    @classmethod
    def _is_known(cls, rule: str) -> str:
        return known_name("rule", rule, BUILT_IN_RULES)

    @model_validator(mode="after")
    def _is_of_the_rule(self) -> Self:
        if self.rule != "oort" and self.oort != OortSettings():
            raise ValueError('the table oort is of the rule "oort" alone: set rule = "oort", or leave it out')
        return self


class EvaluationSettings(Section):
    """How good the model is."""

    central_every: int = Field(1, ge=0, description="versions between central evaluations; 0: never")
    federated_every: int = Field(0, ge=0, description="versions between evaluations on devices; 0: never")
    window_s: Seconds = Field(60, description="seconds devices have to evaluate")
    devices: int = Field(20, ge=1, description="most devices asked for a federated evaluation")
    at_end: bool = Field(
        False,
        description="before the run ends, its last version is evaluated on all devices that are there or come within "
        "`window_s`, at most `devices`; the operator's stop does not wait for it",
    )


class StopSettings(Section):
    """When the run is finished: whichever comes first."""

    rounds: int | None = Field(None, ge=1, description="versions to commit")
    metric: str = Field("accuracy", description="of central evaluation (of federated evaluation when there is none)")
    at_least: float | None = Field(None, description="finished when the metric reaches it")
    at_most: float | None = Field(None, description="the same for a metric that falls, such as a loss")
    patience: int | None = Field(None, ge=1, description="evaluations without a better value of the metric")

    @model_validator(mode="after")
    def _can_stop(self) -> Self:
        if self.at_least is not None and self.at_most is not None:
            raise ValueError("at_least and at_most exclude each other: keep one")
        return self

    @property
    def is_falling(self) -> bool:
        """Whether a smaller metric is better."""
        return self.at_most is not None or (self.at_least is None and "loss" in self.metric)


class TransferSettings(Section):
    """How bytes travel."""

    chunk_bytes: int = Field(
        122_880, ge=4096, le=262_144, description="120 KiB: fastest, and under public brokers' limits"
    )
    inline_bytes: int = Field(32_768, ge=0, le=262_144, description="updates up to this travel in the report itself")
    check_in_interval_s: Seconds = Field(
        30, description="while idle; grows to a tenth of a second for each device that has come back"
    )
    reconnect_window_s: float = Field(
        10, ge=0, le=1e9, description="devices return within this many seconds, spread uniformly"
    )
    granted_bytes: int = Field(
        16 * 2**20, ge=262_144, description="chunks asked for and not yet on disk, over all uploads"
    )
    granted_chunks: int = Field(500, ge=1, description="the same in chunks: stays under the broker's queue")
    max_update_bytes: int | None = Field(
        None, ge=1, le=MAX_EXAMPLES, description="largest update; default: what the codec gives"
    )
    messages_per_s: float = Field(
        5, gt=0, description="of one device, with bursts of ten times that; granted chunks do not count"
    )


class OutputSettings(Section):
    """Where results lie."""

    folder: Path = Field(Path("runs"), description="each run has a folder of its name in it")
    keep_best: bool = Field(True, description="keep the version with the best metric beside the last")
    plot: bool = Field(True, description="draw history.png at the end, where matplotlib is installed")
    disk_bytes: int | None = Field(
        None, ge=1, description="most bytes that updates and versions may take; unset: what the disk has"
    )


class Settings(Section):
    """The whole TOML of a run."""

    task: str = Field(description="module:name of the task")
    fleet: Name = Field("fleet", description="which devices: a segment of every topic")
    run: Name | None = Field(None, description="the same name resumes; default: task name and date")
    seed: int = Field(1, ge=0, lt=2**63, description="decides every bit of a run")
    broker: BrokerSettings = BrokerSettings()
    round: RoundSettings
    selection: SelectionSettings = SelectionSettings()
    training: TrainingSettings = TrainingSettings()
    server: ServerSettings = ServerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    stop: StopSettings = StopSettings()
    transfer: TransferSettings = TransferSettings()
    output: OutputSettings = OutputSettings()

    @model_validator(mode="before")
    @classmethod
    def _is_filled(cls, given: Any) -> Any:
        """Fill what the algorithm needs, and the knobs of the mode that stand in other tables than `round`."""
        if not isinstance(given, Mapping) or not isinstance(given.get("round"), Mapping):
            return given
        given = filled_for_rule(filled_for_algorithm(given))
        table = given["round"]
        window = table.get("window_s")
        window_max_s = window.get("max") if isinstance(window, Mapping) else getattr(window, "max", None)
        if not isinstance(window_max_s, int | float):
            window_max_s = RoundSettings.model_fields["window_s"].default.max
        tables = {name: given.get(name, {}) for name in ("training", "server")}
        if not all(isinstance(each, Mapping) for each in tables.values()):
            return given
        return {**given, **filled(str(table.get("mode")), window_max_s, **tables)}

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        mode, window_s, max_seconds = self.round.mode, self.round.window_s, self.training.max_seconds
        if mode == "semi-sync" and max_seconds is not None and max_seconds >= window_s.max:
            raise ValueError(
                f"training.max_seconds = {max_seconds:g} is not less than round.window_s.max = {window_s.max:g}: every "
                "device would still be at work when its round is over"
            )
        if self.training.algorithm == "fedsgd" and (mode == "semi-sync" or self.server.normalize == "steps"):
            key = "round.mode = semi-sync" if mode == "semi-sync" else "server.normalize = steps"
            raise ValueError(
                f"{key} cannot hold with training.algorithm = fedsgd: a gradient over all examples is one step for "
                "everybody, however long it takes"
            )
        if self.training.algorithm == "fedsgd" and self.round.max_staleness:
            raise ValueError(
                f"training.algorithm = fedsgd is synchronous only, and cannot hold with round.max_staleness = "
                f"{self.round.max_staleness} (round.mode = {mode}): a gradient taken at an older version is not that "
                "of the model it would move; use fedavg, or mode = sync"
            )
        staleness = self.round.max_staleness
        if cause := contradiction(self.training, self.server, mode=mode, max_staleness=staleness):
            raise ValueError(cause)
        if cause := rule_contradiction(self.server, quorum=self.round.quorum_count):
            raise ValueError(cause)
        if (
            self.stop.rounds is None
            and self.stop.at_least is None
            and self.stop.at_most is None
            and (self.stop.patience is None)
        ):
            raise ValueError("stop: the run would never end: give rounds, at_least, at_most or patience")
        if self.transfer.inline_bytes > MAX_INLINE_BYTES:
            raise ValueError(f"transfer.inline_bytes: at most {MAX_INLINE_BYTES}, for they live in the journal's rows")
        return self
