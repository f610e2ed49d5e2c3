"""The frozen wire messages.

Strict: a bool is no int, a string no number. Unknown keys are ignored within a major version, so that a newer peer may
say more. Bounds here are those of the protocol, not of one run. Every message from the aggregator carries `epoch`:
devices ignore a lower one than the highest they have seen.

Not here: the types of single fields (`wire_fields.py`), bytes (`wire.py`), who may send what (`topics.py`).
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.task import Metric, Ratio
from shared.wire_fields import (
    MAX_EXAMPLES,
    ChunkBytes,
    Conditions,
    Count,
    Digest,
    Finite,
    Lax,
    LeaseId,
    Metrics,
    Name,
    Options,
    Seconds,
    ShownMetrics,
    Text,
    WireMetric,
    WireReason,
    Word,
    for_people,
)

__all__ = [
    "MAX_EXAMPLES",
    "MAX_GRANT_RANGES",
    "MAX_HOLDS",
    "PROTOCOL_VERSION",
    "Action",
    "AggregatorStatus",
    "Assignment",
    "CheckIn",
    "Control",
    "DeviceStatus",
    "Fleet",
    "Holding",
    "Kind",
    "ModelRef",
    "Options",
    "Outcome",
    "Receipt",
    "Report",
    "Reported",
    "RetryWindow",
    "Round",
    "RoundOutcome",
    "RoundState",
    "WireMessage",
    "WireMetric",
    "WorkOrder",
    "for_people",
    "metric",
]

PROTOCOL_VERSION: Final = 1
MAX_HOLDS = 16
MAX_GRANT_RANGES = 32


class Kind(StrEnum):
    """What a lease is for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class Reported(StrEnum):
    """What a device says it did."""

    TRAINED = "trained"
    EVALUATED = "evaluated"
    FAILED = "failed"


class Outcome(StrEnum):
    """What became of a report. All are final but `need` (a grant) and `busy` (paused: keep it, ask later)."""

    ACCEPTED = "accepted"
    DISCARDED = "discarded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NEED = "need"
    BUSY = "busy"

    @property
    def is_final(self) -> bool:
        """Whether the device may forget the lease."""
        return self not in (Outcome.NEED, Outcome.BUSY)


class RoundOutcome(StrEnum):
    """How the last round ended."""

    COMMITTED = "committed"
    ABANDONED = "abandoned"


class RoundState(StrEnum):
    """Whether work is given out."""

    OPEN = "open"
    PAUSED = "paused"
    FINISHED = "finished"


class Action(StrEnum):
    """What a Control message asks for."""

    CANCEL = "cancel"
    COME_BACK = "come_back"
    UPGRADE = "upgrade"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class WireMessage(_Part):
    """A whole message: a map with the major version in it."""

    v: Literal[1] = PROTOCOL_VERSION
    max_message_bytes: ClassVar[int] = 4096
    """Cap of the map without `data`."""


class RetryWindow(_Part):
    """When to check in again, in seconds from now; draw uniformly."""

    min: Seconds
    max: Seconds


class ModelRef(_Part):
    """A model by its name, the sha-256 of its index."""

    version: Count
    digest: Digest
    index_bytes: Annotated[int, Field(ge=1, le=4 * 2**20)]
    chunk_bytes: ChunkBytes


class Fleet(WireMessage):
    """Limits that hold for everybody, and which run is served."""

    epoch: Count
    run: Name
    chunk_bytes: ChunkBytes
    inline_bytes: Annotated[int, Field(ge=0, le=262_144)]
    check_in_interval_s: Seconds
    reconnect_window_s: Seconds
    codecs: Annotated[list[Word], Field(max_length=32)]


class Round(WireMessage):
    """The round manifest. `round` is the one under way, `outcome` that of the one before."""

    epoch: Count
    run: Name
    round: Count
    outcome: Annotated[RoundOutcome, Lax] | None = None
    state: Annotated[RoundState, Lax]
    model: ModelRef
    report_goal: Count


class Holding(_Part):
    """A lease a device still has, and its run."""

    lease: LeaseId
    run: Name


class CheckIn(WireMessage):
    """A device is there and says whether it may work; `refusal` is None exactly when it is eligible."""

    run: Name | None = None
    spec: Digest | None = None
    boot: Word
    connection: Count
    device_class: Word = ""
    protocols: Annotated[list[Count], Field(min_length=1, max_length=8)]
    codecs: Annotated[list[Word], Field(max_length=32)]
    num_examples: Count | None = None
    memory_bytes: Count | None = None
    conditions: Conditions = {}
    refusal: WireReason | None = None
    detail: Text = ""
    holds: Annotated[list[Holding], Field(max_length=MAX_HOLDS)] = []
    missing: Digest | None = None
    keeps_state: bool = True


class WorkOrder(_Part):
    """What of `Work` crosses the wire."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    algorithm: Word
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)] | None = None
    learning_rate: Finite
    mu: Finite = 0.0
    alpha: Finite | None = None
    state_of: LeaseId | None = None
    options: Options = {}


class Assignment(WireMessage):
    """Train (or evaluate) this version, with this work, until then. `work` is None exactly for an evaluation."""

    epoch: Count
    lease: LeaseId
    run: Name
    round: Count
    kind: Annotated[Kind, Lax]
    model: ModelRef
    work: WorkOrder | None = None
    codec: Word
    codec_seed: Annotated[int, Field(ge=0, lt=2**63)]
    max_bytes: Count
    seconds_left: Seconds
    max_seconds: Seconds | None = None
    status_every_s: Seconds


class Report(WireMessage):
    """What a device did under a lease: the update itself (`data`), the offer of it (`chunk_bytes`), or neither."""

    lease: LeaseId
    run: Name
    outcome: Annotated[Reported, Lax]
    error: Text = ""
    codec: Word = ""
    num_examples: Annotated[int, Field(ge=1, le=MAX_EXAMPLES)] | None = None
    n_steps: Count = 0
    fetch_seconds: Seconds = 0.0
    train_seconds: Seconds = 0.0
    offline_seconds: Seconds = 0.0
    metrics: Metrics = {}
    size: Count | None = None
    sha256: Digest | None = None
    data: bytes | None = None
    chunk_bytes: ChunkBytes | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.outcome is not Reported.FAILED and self.num_examples is None:
            raise ValueError("num_examples is missing")
        if self.outcome is not Reported.TRAINED:
            if any(part is not None for part in (self.data, self.chunk_bytes, self.size, self.sha256)):
                raise ValueError("only a trained report has data, chunk_bytes, size or sha256")
        elif self.size is None or self.sha256 is None or not self.codec:
            raise ValueError("a trained report has codec, size and sha256")
        elif (self.data is None) == (self.chunk_bytes is None):
            raise ValueError("a trained report has data, or chunk_bytes, not both")
        return self


class Receipt(WireMessage):
    """A grant (`need`), a wait (`busy`), or the final outcome of a lease."""

    epoch: Count
    lease: LeaseId
    run: Name
    outcome: Annotated[Outcome, Lax]
    reason: WireReason | None = None
    detail: Text = ""
    staleness: Count = 0
    repeat: bool = False
    need: Annotated[list[Annotated[tuple[Count, Count], Lax]], Field(max_length=MAX_GRANT_RANGES)] = []
    """Granted chunks, both ends included."""
    retry_s: RetryWindow | None = None


class Control(WireMessage):
    """Cancel a lease, come back later, upgrade."""

    epoch: Count
    action: Annotated[Action, Lax]
    lease: LeaseId | None = None
    retry_s: RetryWindow | None = None
    reason: WireReason | None = None
    detail: Text = ""


class DeviceStatus(WireMessage):
    """JSON: what a device does, for people and for selection."""

    max_message_bytes: ClassVar[int] = 1024

    online: bool
    boot: Word
    connection: Count
    phase: Word = ""
    round: Count | None = None
    lease: LeaseId | None = None
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    refusal: WireReason | None = None
    detail: Text = ""
    conditions: Conditions = {}


class AggregatorStatus(WireMessage):
    """JSON, at most once a second: what `watch` shows."""

    online: bool
    epoch: Count
    instance: Word
    run: Name
    round: Count = 0
    version: Count = 0
    phase: Word = ""
    causes: Annotated[list[Text], Field(max_length=8)] = []
    have: Count = 0
    need: Count = 0
    goal: Count = 0
    states: Annotated[dict[Word, Count], Field(max_length=16)] = {}
    population: Annotated[dict[Word, Count], Field(max_length=16)] = {}
    seconds_left: Seconds | None = None
    beat: Count = 0
    metrics: ShownMetrics = {}
    loop_lag_ms: Annotated[dict[Word, Finite], Field(max_length=8)] = {}


def metric(value: WireMetric) -> Metric:
    """Return a wire metric as the task's own type."""
    return Ratio(*value) if isinstance(value, tuple) else value
