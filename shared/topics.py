"""Every topic, built and parsed by exact segment count and grammar, never by prefix.

`fl/v1/d/dev1/../dev2/up` is a legal MQTT topic and lies under `dev1`: only counting segments and checking each one
keeps a device inside its own four shapes. `from` and `to` are as the device sees them.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from shared.errors import PeerError, Reason

__all__ = [
    "NAME",
    "AggregatorStatusTopic",
    "AssignmentTopic",
    "CheckInTopic",
    "ChunkTopic",
    "ControlTopic",
    "FleetTopic",
    "IndexTopic",
    "ModelTopic",
    "ReceiptTopic",
    "ReportTopic",
    "RoundTopic",
    "StatusTopic",
    "Topic",
    "Topics",
]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""What a fleet, run or device may be called."""
_LEASE = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class FleetTopic:
    """Limits that hold for everybody."""


@dataclass(frozen=True, slots=True)
class AggregatorStatusTopic:
    """What `watch` shows."""


@dataclass(frozen=True, slots=True)
class RoundTopic:
    """The round manifest."""

    run: str


@dataclass(frozen=True, slots=True)
class IndexTopic:
    """Piece of a model's index."""

    run: str
    digest: str
    piece: int


@dataclass(frozen=True, slots=True)
class ModelTopic:
    """Chunk of a model."""

    run: str
    digest: str
    chunk: int


@dataclass(frozen=True, slots=True)
class AssignmentTopic:
    """Work for a device."""

    device: str


@dataclass(frozen=True, slots=True)
class ReceiptTopic:
    """Grants, and what became of a report."""

    device: str


@dataclass(frozen=True, slots=True)
class ControlTopic:
    """Cancel, come back later, upgrade."""

    device: str


@dataclass(frozen=True, slots=True)
class StatusTopic:
    """A device's status, for people and for selection."""

    device: str


@dataclass(frozen=True, slots=True)
class CheckInTopic:
    """A device waits for work."""

    device: str


@dataclass(frozen=True, slots=True)
class ReportTopic:
    """A small update, an offer, an evaluation or a failure."""

    device: str
    lease: str


@dataclass(frozen=True, slots=True)
class ChunkTopic:
    """Chunk of an update."""

    device: str
    lease: str
    chunk: int


Topic: TypeAlias = (
    FleetTopic
    | AggregatorStatusTopic
    | RoundTopic
    | IndexTopic
    | ModelTopic
    | AssignmentTopic
    | ReceiptTopic
    | ControlTopic
    | StatusTopic
    | CheckInTopic
    | ReportTopic
    | ChunkTopic
)


@dataclass(frozen=True, slots=True)
class Topics:
    """Builder and parser for one fleet."""

    fleet_name: str

    def __post_init__(self) -> None:
        """Refuse a name that is outside the grammar."""
        _check(NAME, self.fleet_name, "fleet")

    @property
    def root(self) -> str:
        """`fl/v1/{fleet}`; v1 is the wire's major version, so that a v2 can run beside it."""
        return f"fl/v1/{self.fleet_name}"

    @property
    def every_device(self) -> tuple[str, ...]:
        """What the aggregator subscribes to at QoS 1: all that devices write but their status."""
        start = f"{self.root}/from/+"
        return (f"{start}/check-in", f"{start}/report/+", f"{start}/chunk/+/+")

    @property
    def every_status(self) -> str:
        """Subscribed at QoS 0: brokers truncate a wildcard of retained messages at QoS 1."""
        return f"{self.root}/from/+/status"

    def to_device(self, device: str) -> tuple[str, ...]:
        """What one device subscribes to for itself."""
        return tuple(self.build(kind(device)) for kind in (AssignmentTopic, ReceiptTopic, ControlTopic))

    def build(self, topic: Topic) -> str:
        """Return the topic as a string.

        Raises:
            PeerError: a part is outside the grammar.
        """
        match topic:
            case FleetTopic():
                rest = "fleet"
            case AggregatorStatusTopic():
                rest = "aggregator/status"
            case RoundTopic(run):
                rest = f"run/{_check(NAME, run, 'run')}/round"
            case IndexTopic(run, digest, piece):
                rest = f"run/{_check(NAME, run, 'run')}/index/{_check(_DIGEST, digest, 'digest')}/{_number(piece)}"
            case ModelTopic(run, digest, chunk):
                rest = f"run/{_check(NAME, run, 'run')}/model/{_check(_DIGEST, digest, 'digest')}/{_number(chunk)}"
            case AssignmentTopic(device):
                rest = f"to/{_check(NAME, device, 'device')}/assignment"
            case ReceiptTopic(device):
                rest = f"to/{_check(NAME, device, 'device')}/receipt"
            case ControlTopic(device):
                rest = f"to/{_check(NAME, device, 'device')}/control"
            case StatusTopic(device):
                rest = f"from/{_check(NAME, device, 'device')}/status"
            case CheckInTopic(device):
                rest = f"from/{_check(NAME, device, 'device')}/check-in"
            case ReportTopic(device, lease):
                rest = f"from/{_check(NAME, device, 'device')}/report/{_check(_LEASE, lease, 'lease')}"
            case ChunkTopic(device, lease, chunk):
                start = f"from/{_check(NAME, device, 'device')}/chunk"
                rest = f"{start}/{_check(_LEASE, lease, 'lease')}/{_number(chunk)}"
        return f"{self.root}/{rest}"

    def parse(self, topic: str) -> Topic:
        """Return what a topic names.

        Raises:
            PeerError: it is none of this fleet's shapes.
        """
        return _parsed(self.root, topic)


@lru_cache(4096)  # what everybody is told arrives at all devices of a process, one after the other
def _parsed(root: str, topic: str) -> Topic:
    start = f"{root}/"
    if not topic.startswith(start):
        raise PeerError(Reason.TOPIC, topic[:200])
    match topic[len(start) :].split("/"):
        case ["fleet"]:
            return FleetTopic()
        case ["aggregator", "status"]:
            return AggregatorStatusTopic()
        case ["run", run, "round"] if NAME.fullmatch(run):
            return RoundTopic(run)
        case ["run", run, "index" | "model" as kind, digest, number] if (
            NAME.fullmatch(run) and _DIGEST.fullmatch(digest) and _INDEX.fullmatch(number)
        ):
            return (IndexTopic if kind == "index" else ModelTopic)(run, digest, int(number))
        case ["to", device, "assignment"] if NAME.fullmatch(device):
            return AssignmentTopic(device)
        case ["to", device, "receipt"] if NAME.fullmatch(device):
            return ReceiptTopic(device)
        case ["to", device, "control"] if NAME.fullmatch(device):
            return ControlTopic(device)
        case ["from", device, "status" | "check-in" as kind] if NAME.fullmatch(device):
            return StatusTopic(device) if kind == "status" else CheckInTopic(device)
        case ["from", device, "report", lease] if NAME.fullmatch(device) and _LEASE.fullmatch(lease):
            return ReportTopic(device, lease)
        case ["from", device, "chunk", lease, number] if (
            NAME.fullmatch(device) and _LEASE.fullmatch(lease) and _INDEX.fullmatch(number)
        ):
            return ChunkTopic(device, lease, int(number))
    raise PeerError(Reason.TOPIC, topic[:200])


def _check(grammar: re.Pattern[str], value: str, what: str) -> str:
    if not grammar.fullmatch(value):
        raise PeerError(Reason.TOPIC, f"{what} {value[:80]!r} does not match {grammar.pattern}")
    return value


def _number(index: int) -> str:
    return _check(_INDEX, str(index), "index")
