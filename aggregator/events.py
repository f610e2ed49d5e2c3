"""What the round machine is told.

Envelopes: ids, versions, sizes, verdicts; never tensors, sockets, clocks or files.

Not here: what it answers (`commands.py`).
"""

from dataclasses import dataclass
from typing import TypeAlias

from shared.codecs import CODECS
from shared.errors import Reason
from shared.messages import WireMetric

__all__ = [
    "AggregationFailed",
    "BrokerFound",
    "BrokerLost",
    "CheckedIn",
    "DeadlinePassed",
    "DeviceOffline",
    "DiskFree",
    "DiskLow",
    "DiskSeen",
    "Evaluated",
    "Event",
    "Failed",
    "ModelGone",
    "Offered",
    "PauseAsked",
    "Progressed",
    "Published",
    "Refused",
    "ResumeAsked",
    "StopAsked",
    "Verified",
    "VersionWritten",
]


_ALL_CODECS = frozenset(CODECS)

# events: from devices


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedIn:
    """A device is there; `refusal` None means that it may work. `holds` are its leases of the run served.

    `codecs` are those of ours that it can use.
    """

    device: str
    refusal: Reason | None = None
    detail: str = ""
    device_class: str = ""
    codecs: frozenset[str] = _ALL_CODECS
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
    """A lease moved: its device says so, or a chunk arrived. Renews the lease. `phase` is the device's own word."""

    device: str
    lease: str
    phase: str = ""


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
    fetch_seconds: float = 0.0
    train_seconds: float = 0.0
    offline_seconds: float = 0.0
    loss: float | None = None
    initial_loss: float | None = None
    norm: float = 0.0
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
    """The next version could not be made; `is_disk_full`: for want of space, so it is tried again once there is."""

    detail: str
    is_disk_full: bool = False


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The link to the broker broke."""


@dataclass(frozen=True, slots=True)
class BrokerFound:
    """The link is back and what was missing is published again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSeen:
    """How many bytes updates may take in all, those that are there included; negative: not even the versions fit."""

    for_updates: int


@dataclass(frozen=True, slots=True)
class DiskLow:
    """The folder's disk is full, or will be with the next version."""


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
    | DiskSeen
    | DiskLow
    | DiskFree
    | PauseAsked
    | ResumeAsked
    | StopAsked
    | DeadlinePassed
)
