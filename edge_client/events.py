"""What the participant machine is told, and what it answers.

Events are facts, commands are wishes; both are envelopes: no tensor, no byte of an update ever passes here.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from edge_client.eligibility import Refusal
from shared.errors import Reason
from shared.messages import Assignment, CheckIn, Control, Fleet, ModelRef, Outcome, Receipt, Round

__all__ = [
    "Announce",
    "AssignmentArrived",
    "BeginTraining",
    "CancelTraining",
    "Command",
    "Connected",
    "ControlArrived",
    "DeadlinePassed",
    "Disconnected",
    "EligibilityRead",
    "Event",
    "ExplainSpec",
    "FetchModel",
    "FleetSeen",
    "FollowRun",
    "GrantChunks",
    "HeldReport",
    "KeepEpoch",
    "ModelFetched",
    "ModelMissing",
    "Offer",
    "ReceiptArrived",
    "ReportLost",
    "ReportSent",
    "ReportStored",
    "RoundSeen",
    "RunFinished",
    "SendCheckIn",
    "SendStatus",
    "Sending",
    "Settle",
    "SpecExplained",
    "StayAway",
    "StopFetching",
    "StopUpload",
    "UploadDrained",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldReport:
    """A finished report without a final outcome, as the machine knows it."""

    lease: str
    run: str
    round: int
    version: int


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Connected:
    """A fresh connection stands and its own topics are subscribed."""

    connection: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone."""

    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class FleetSeen:
    """The limits of the fleet arrived; retained: they were there before this connection."""

    fleet: Fleet
    retained: bool = False


@dataclass(frozen=True, slots=True)
class RoundSeen:
    """A round manifest arrived."""

    round: Round
    retained: bool = False


@dataclass(frozen=True, slots=True)
class AssignmentArrived:
    """Work is offered."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class ReceiptArrived:
    """A grant, a wait or a final outcome."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class ControlArrived:
    """Cancel, come back, upgrade."""

    control: Control


@dataclass(frozen=True, slots=True)
class EligibilityRead:
    """The device looked at itself."""

    refusal: Refusal | None
    conditions: dict[str, bool | float | str] = field(default_factory=dict)
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFetched:
    """Every chunk of the model is there and right."""

    lease: str


@dataclass(frozen=True, slots=True)
class ModelMissing:
    """Chunks were asked for often enough and do not come."""

    lease: str
    digest: str


@dataclass(frozen=True, slots=True)
class ReportStored:
    """Work has ended, well or badly, and its report is durable in the outbox."""

    lease: str


@dataclass(frozen=True, slots=True)
class ReportSent:
    """The broker has acknowledged a report or an offer."""

    lease: str


@dataclass(frozen=True, slots=True)
class ReportLost:
    """The outbox has the report no more: over its quota, too old, or damaged."""

    lease: str


@dataclass(frozen=True, slots=True)
class UploadDrained:
    """Nothing granted is left to send, and every PUBACK is in."""

    lease: str


@dataclass(frozen=True, slots=True)
class SpecExplained:
    """In which parameter the task differs from the run's model."""

    detail: str


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """`deadline` has come."""


Event: TypeAlias = (
    Connected
    | Disconnected
    | FleetSeen
    | RoundSeen
    | AssignmentArrived
    | ReceiptArrived
    | ControlArrived
    | EligibilityRead
    | ModelFetched
    | ModelMissing
    | ReportStored
    | ReportSent
    | ReportLost
    | UploadDrained
    | SpecExplained
    | DeadlinePassed
)


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SendCheckIn:
    """Publish the check-in."""

    message: CheckIn


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStatus:
    """Publish the retained status; progress is filled in by whoever knows it."""

    phase: str
    round: int | None
    lease: str | None
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class FollowRun:
    """Subscribe to the round manifest of a run."""

    run: str


@dataclass(frozen=True, slots=True)
class FetchModel:
    """Fetch what is missing of the assignment's model; answer `ModelFetched` or `ModelMissing`."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class StopFetching:
    """Nobody needs that model now; what has come stays in the cache."""

    lease: str


@dataclass(frozen=True, slots=True)
class BeginTraining:
    """Train or evaluate; answer `ReportStored`, whatever happens.

    `fetch_seconds`: from the assignment until the model was there.
    """

    assignment: Assignment
    fetch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CancelTraining:
    """Stop at the next batch; a result that comes all the same is thrown away."""

    lease: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Publish the report, with its data or as the offer of it; answer `ReportSent`."""

    lease: str


@dataclass(frozen=True, slots=True)
class GrantChunks:
    """Send these chunks; answer `UploadDrained` once all that was granted is acknowledged."""

    lease: str
    need: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class StopUpload:
    """Send no further chunk of it."""

    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """The lease is final: apply it to the local state, remember the lease, delete the outbox entry, in this order."""

    lease: str
    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class StayAway:
    """Another device uses this id: leave the broker, and do not come back before so many seconds, if at all."""

    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class ExplainSpec:
    """Fetch the index of the run's model and say which parameter differs; answer `SpecExplained`."""

    run: str
    model: ModelRef


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the operator that the aggregator turns this device away, once a cause."""

    reason: Reason
    detail: str
    retry_s: float


@dataclass(frozen=True, slots=True)
class PutOff:
    """Tell the operator that the aggregator does not take a report for now, once until it has answered otherwise."""

    lease: str
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class KeepEpoch:
    """Remember the highest epoch seen: a lower one counts for nothing, after a reboot either."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over, and nothing of it is left here."""

    run: str


Sending: TypeAlias = (
    SendCheckIn | SendStatus | FollowRun | FetchModel | StopFetching | Offer | GrantChunks | StopUpload | ExplainSpec
)
"""Commands that need a link; there are none of them while there is no connection, but the two that stop."""

Command: TypeAlias = (
    Sending | BeginTraining | CancelTraining | Settle | StayAway | Announce | PutOff | KeepEpoch | RunFinished
)
