"""What the round machine answers: what to do, in order.

Envelopes: ids, versions, sizes, verdicts; never tensors, sockets, clocks or files. A command that must not happen
before a row is durable stands in that row's `then`.

Not here: what it is told (`events.py`), carrying out (`service.py`).
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from aggregator.phases import EndCause
from aggregator.records import AcceptRecord, Record
from shared.errors import Reason
from shared.messages import Outcome, RetryWindow, WireMetric

__all__ = [
    "Aggregate",
    "Assign",
    "Cancel",
    "ComeBack",
    "Command",
    "DropUpload",
    "EvaluationDone",
    "Finish",
    "Fold",
    "Forget",
    "Journal",
    "PublishModel",
    "PublishRound",
    "RepublishModel",
    "RoundEnded",
    "SendReceipt",
    "TakeUpload",
    "WindowExtended",
]


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
    """Tell a device when to check in next; `detail`: what somebody has to change before it may take part."""

    device: str
    reason: Reason
    retry_s: RetryWindow
    detail: str = ""


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
    """One summary record a round. `counts` are those of the whole run; `expired` counts how often leases did.

    `cause` is None when a restart no longer knows it. `late` counts the accepted that had been trained from an older
    version than the one before theirs.
    """

    round_id: int
    version: int
    outcome: str
    seconds: float
    cause: EndCause | None = None
    n_extensions: int = 0
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
