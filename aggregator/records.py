"""The rows of the journal: what the aggregator has decided, in the order in which it became true.

The model is a function of the configuration and these rows. Rows are plain values: the round machine makes them, the
journal makes them durable, and a restart reads them back to the same machine.
"""

from dataclasses import dataclass
from typing import TypeAlias

from aggregator.phases import EndCause
from shared.errors import Reason
from shared.messages import Kind, Outcome, WireMetric

__all__ = [
    "AbandonRecord",
    "AcceptRecord",
    "CloseRecord",
    "CommitRecord",
    "ConfigRecord",
    "EpochRecord",
    "FinishRecord",
    "LeaseRecord",
    "OutcomeRecord",
    "Record",
    "RoundClock",
    "RoundRecord",
    "VoidRecord",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One start of the aggregator. Higher epochs win."""

    epoch: int
    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRecord:
    """The configuration since a start; `settings` is its JSON without secrets.

    `from_version` was being built then: the first version that it can have a part in. Leases and accepted updates
    before this row keep what they were given with, which is in their own rows.
    """

    digest: str
    settings: str
    from_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round began to build version `into`."""

    round_id: int
    into: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A permission to report once. Durable before its Assignment is published."""

    lease: str
    device: str
    round_id: int
    kind: Kind
    base_version: int
    codec: str
    max_bytes: int
    device_class: str = ""
    given_at_s: float = 0.0
    """Unix time."""
    work: str = ""
    """The WorkOrder as JSON, so that a restart can repeat the Assignment to the letter; "" for an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRecord:
    """An update that counts. Folded in `seq` order into the version `into`; one a lease, one a device and base version.

    `data` holds the encoded update when it came inline; otherwise it lies in the file of this lease.
    """

    seq: int
    lease: str
    device: str
    round_id: int
    base_version: int
    into: int
    weight: float
    """What it counts against the others."""
    num_examples: int
    n_steps: int
    clip_scale: float
    discount: float = 1.0
    """Factor on the update itself for being late, in (0, 1]."""
    codec: str
    size: int
    sha256: str
    seconds: float = 0.0
    """From the lease to the verdict."""
    fetch_seconds: float = 0.0
    train_seconds: float = 0.0
    offline_seconds: float = 0.0
    """The device's own word on these three."""
    loss: float | None = None
    """Mean training loss, by the device's own word; None: it names none."""
    initial_loss: float | None = None
    """Mean loss of the received model, by the device's own word; of q-FedAvg alone, which weighs by it."""
    learning_rate: float | None = None
    """That it was told to train with; of q-FedAvg alone."""
    effective_steps: float | None = None
    """Plain steps that its training is worth, of FedProx whose steps are normalised; None: `n_steps`."""
    begins: bool = False
    """Whether the algorithm's state on the device began with it."""
    data: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRecord:
    """The final outcome of a lease that was not accepted, or of an evaluation. Durable before its receipt is sent."""

    lease: str
    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    num_examples: int = 0
    metrics: tuple[tuple[str, WireMetric], ...] = ()
    was_uploading: bool = False
    """Whether its update was on its way up, and did not come in time."""
    is_lost: bool = False
    """Whether nobody had heard of it for too long: its lease had expired, or its device was away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRecord:
    """No later ACCEPT counts for `into`; `last_seq` is the last that does, 0 if none; `cause` says why it is enough."""

    into: int
    last_seq: int
    cause: EndCause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """Version `version` is durable; `digest` names it on the wire. `metrics` are those of central evaluation."""

    version: int
    round_id: int
    digest: str
    metrics: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonRecord:
    """The round ended without a version; what it accepted goes on to the next round."""

    round_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRecord:
    """The operator threw away what was accepted for `into`; or, of it, the update of one lease that a repair lost."""

    into: int
    lease: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRecord:
    """The run has ended: `rounds`, `metric`, `patience` or `operator`."""

    cause: str


Record: TypeAlias = (
    EpochRecord
    | ConfigRecord
    | RoundRecord
    | LeaseRecord
    | AcceptRecord
    | OutcomeRecord
    | CloseRecord
    | CommitRecord
    | AbandonRecord
    | VoidRecord
    | FinishRecord
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundClock:
    """Where the timers stood, stored at least every 5 s; not part of the chain, for it decides no bit of the model.

    Args:
        round_id: whose timers these are.
        left_s: of the reporting window when stored.
        n_extensions: how often the window has grown.
        wall_s: Unix time when stored; left = clamp(left_s - elapsed, 0, left_s).
    """

    round_id: int
    left_s: float
    n_extensions: int
    wall_s: float
