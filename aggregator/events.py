"""What the round machine is told, and what it answers.

Events and commands are envelopes: ids, versions, sizes, verdicts; never tensors, sockets, clocks or files. A command
that must not happen before a row is durable stands in that row's `then`.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from aggregator.records import AcceptRecord, Record
from shared.errors import Reason
from shared.messages import Outcome, RetryWindow, WireMetric

__all__ = [
    "Aggregate",
    "AggregationFailed",
    "Assign",
    "BrokerFound",
    "BrokerLost",
    "Cancel",
    "CheckedIn",
    "ComeBack",
    "Command",
    "DeadlinePassed",
    "DeviceOffline",
    "DiskFree",
    "DiskLow",
    "DropUpload",
    "Evaluated",
    "EvaluationDone",
    "Event",
    "Failed",
    "Finish",
    "Fold",
    "Forget",
    "Journal",
    "ModelGone",
    "Offered",
    "PauseAsked",
    "Progressed",
    "PublishModel",
    "PublishRound",
    "Published",
    "Refused",
    "RepublishModel",
    "ResumeAsked",
    "RoundEnded",
    "SendReceipt",
    "StopAsked",
    "TakeUpload",
    "Verified",
    "VersionWritten",
    "WindowExtended",
]


# events: from devices


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedIn:
    """A device is there; `refusal` None means that it may work. `holds` are its leases of the run served."""

    device: str
    refusal: Reason | None = None
    detail: str = ""
    holds: frozenset[str] = frozenset()
    missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOffline:
    """The newest connection of a device has ended. Steers selection only.

    `is_settled`: it left in good order, with no report that waits for an outcome.
    """

    device: str
    is_settled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """A lease moved: its device says so, or a chunk arrived. Renews the lease."""

    device: str
    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A device has an update under a lease that is known to be its own."""

    device: str
    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An update is whole, durable, of the right digest and length, finite and within the norm bound."""

    lease: str
    num_examples: int
    n_steps: int
    codec: str
    size: int
    sha256: str
    data: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An update turned out to be wrong."""

    lease: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A device could not do the work."""

    device: str
    lease: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A device evaluated the model on its own data."""

    device: str
    lease: str
    num_examples: int
    metrics: tuple[tuple[str, WireMetric], ...]


# events: from the aggregator's own rooms and its operator


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionWritten:
    """The next version is computed, evaluated where that was due, and durable."""

    version: int
    digest: str
    metrics: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """All pieces of a version were read back from the broker."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGone:
    """A version that a lease may still name was deleted from the broker, to make place."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationFailed:
    """The next version could not be made."""

    detail: str


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The link to the broker broke."""


@dataclass(frozen=True, slots=True)
class BrokerFound:
    """The link is back and what was missing is published again."""


@dataclass(frozen=True, slots=True)
class DiskLow:
    """The folder's disk cannot take what is still to come."""


@dataclass(frozen=True, slots=True)
class DiskFree:
    """It can again."""


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """By the operator."""


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """By the operator; `void` throws away what was accepted for the version being built."""

    void: bool = False


@dataclass(frozen=True, slots=True)
class StopAsked:
    """By the operator: finish with the last committed version."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The machine's own `deadline` has come."""


Event: TypeAlias = (
    CheckedIn
    | DeviceOffline
    | Progressed
    | Offered
    | Verified
    | Refused
    | Failed
    | Evaluated
    | VersionWritten
    | Published
    | ModelGone
    | AggregationFailed
    | BrokerLost
    | BrokerFound
    | DiskLow
    | DiskFree
    | PauseAsked
    | ResumeAsked
    | StopAsked
    | DeadlinePassed
)


# commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Publish the Assignment of a lease, or repeat it."""

    lease: str
    device: str
    seconds_left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReceipt:
    """Tell a device what became of a lease (or `busy`)."""

    lease: str
    device: str
    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    staleness: int = 0
    repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Tell a device to stop working on a lease."""

    lease: str
    device: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ComeBack:
    """Tell a device when to check in next."""

    device: str
    reason: Reason
    retry_s: RetryWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeUpload:
    """Grant chunks of what was offered last under this lease, or verify what came inline."""

    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DropUpload:
    """Nothing more is wanted under this lease: forget its grants and its part file."""

    lease: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Add a durable update to the accumulator of its `into`."""

    record: AcceptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Make version `into` from all that was folded for it, evaluate it, write it."""

    into: int
    round_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Throw away the accumulator of a voided `into`; its files go by `DropUpload`."""

    into: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishModel:
    """Publish a committed version's pieces, then say `Published`."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RepublishModel:
    """A device says that pieces of this model do not come."""

    digest: str


@dataclass(frozen=True, slots=True)
class PublishRound:
    """Publish the manifest as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEnded:
    """One summary record a round. `counts` are those of the whole run; `expired` counts how often leases did."""

    round_id: int
    version: int
    outcome: str
    seconds: float
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowExtended:
    """The reporting window ended without a quorum, and has grown: for the operator.

    Args:
        round_id: the round under way.
        have: reports that count.
        need: that may commit at the deadline.
        n_outstanding: leases that are out.
        seconds_left: from now on.
        times: how often it has grown, and `at_most`.
    """

    round_id: int
    have: int
    need: int
    n_outstanding: int
    seconds_left: float
    times: int
    at_most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDone:
    """Federated evaluation of a version is complete, or its window is over."""

    version: int
    n_asked: int
    reports: tuple[tuple[str, int, tuple[tuple[str, WireMetric], ...]], ...]
    """(device, num_examples, metrics) each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The run has ended."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """Make a row durable; only then carry out `then`.

    An Assign or a final SendReceipt that stands alone repeats what was decided before: carry it out when every row that
    was asked for before it is durable.
    """

    record: Record
    then: "tuple[Command, ...]" = ()


Command: TypeAlias = (
    Assign
    | SendReceipt
    | Cancel
    | ComeBack
    | TakeUpload
    | DropUpload
    | Fold
    | Aggregate
    | Forget
    | PublishModel
    | RepublishModel
    | PublishRound
    | RoundEnded
    | WindowExtended
    | EvaluationDone
    | Finish
    | Journal
)
