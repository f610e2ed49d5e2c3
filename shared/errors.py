"""The error tree, divided by whose fault it is.

    FederationError
    ├── ConfigError              the operator's: settings, task, files           exit 2
    │   ├── CredentialsRefused   the broker knows us and says no                 exit 3
    │   └── AlreadyServed        another process has the folder or the fleet     exit 4
    ├── PeerError                the other side's bytes or behaviour: count it, answer it, carry on
    ├── InvalidState             our own misuse: crash loudly
    └── TransportError           the network's: try again

A `Reason` is one word for one cause. The same word stands in the receipt, in the log and in the metric label.
"""

from enum import StrEnum

__all__ = [
    "OWN_RULES",
    "PERMANENT",
    "AlreadyServed",
    "ConfigError",
    "CredentialsRefused",
    "FederationError",
    "InvalidState",
    "PeerError",
    "Reason",
    "TransportError",
    "leaf_of",
]


class Reason(StrEnum):
    """Why a message, a report, a lease or a device was turned away."""

    # a message that is refused before anything is looked up
    TOPIC = "topic"  # not one of the shapes a device may write
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RATE = "rate"  # over the device's message rate
    MALFORMED = "malformed"  # not msgpack, or over the caps
    VERSION = "version"  # another major version of the wire
    FIELDS = "fields"  # a field is missing, of the wrong type or out of range

    # a report that names no lease it may use
    UNKNOWN_LEASE = "unknown_lease"
    FOREIGN_LEASE = "foreign_lease"  # another device's
    OTHER_RUN = "other_run"
    CHUNK = "chunk"  # outside the upload, of the wrong length, or never offered

    # rejected: the update itself
    SIZE = "size"  # over max_bytes, or not what was offered
    DIGEST = "digest"
    LENGTH = "length"  # not what the codec gives for the run's own spec
    CODEC = "codec"  # not the one assigned, or bytes that it does not make
    NOT_FINITE = "not_finite"
    NORM = "norm"
    OFFERS = "offers"  # too many different offers for one lease

    # discarded: good work that came too late or twice
    GOAL_MET = "goal_met"
    TOO_STALE = "too_stale"
    ALREADY_COUNTED = "already_counted"
    RUN_FINISHED = "run_finished"

    # failed: the device says so
    TRAINING = "training"  # the task raised
    RESULT = "result"  # NaN, Inf, a wrong shape or name in what the task returned
    STATE = "state"  # the device has lost what the algorithm lets it keep, or may keep nothing, and something wants to

    # cancelled, or a lease that is not given
    COMMITTED = "committed"  # the version it would help build exists
    SUPERSEDED = "superseded"  # the device said it no longer holds it
    MODEL_GONE = "model_gone"
    OPERATOR = "operator"
    DISK = "disk"
    DEVICE_RESTARTED = "device_restarted"

    # a check-in that is answered with come-back
    NOT_DRAWN = "not_drawn"
    QUOTA = "quota"  # it has had its share for now
    NOT_ELIGIBLE = "not_eligible"  # the device itself says it cannot now
    BATTERY = "battery"  # from here to hours: by the device's own rules
    MAINS = "mains"
    TEMPERATURE = "temperature"
    METERED = "metered"
    LOAD = "load"
    MEMORY = "memory"
    STALE_DATA = "stale_data"
    HOURS = "hours"
    SPEC = "spec"  # the task yields another model
    PROTOCOL = "protocol"
    CLONED_ID = "cloned_id"
    PAUSED = "paused"
    DATA = "data"  # the task has no data for this client


OWN_RULES = frozenset(
    {
        *(Reason.NOT_ELIGIBLE, Reason.BATTERY, Reason.MAINS, Reason.TEMPERATURE, Reason.METERED),
        *(Reason.LOAD, Reason.MEMORY, Reason.STALE_DATA, Reason.HOURS),
    }
)
"""Why a device may say of itself that it does not take part now."""

PERMANENT = frozenset({Reason.SPEC, Reason.CODEC, Reason.STATE, Reason.PROTOCOL, Reason.CLONED_ID})
"""Refusals of a device that only a person can lift."""


class FederationError(Exception):
    """Root of every error of ours."""


class ConfigError(FederationError):
    """What the operator wrote cannot work.

    Args:
        what: the cause, in one sentence.
        where: file and key, device or folder; "" when it is in `what`.
        hint: what to do next; "" when it is obvious.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(": ".join(part for part in (where, what) if part) + (f"\n  {hint}" if hint else ""))


class CredentialsRefused(ConfigError):
    """The broker refused who we are: trying again changes nothing."""

    exit_code = 3


class AlreadyServed(ConfigError):
    """Another process holds the folder or serves the fleet."""

    exit_code = 4


class PeerError(FederationError):
    """The other side sent what it must not. Count it under `reason`, answer it where a lease is named, carry on."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else str(reason))


class InvalidState(FederationError):
    """Code of ours asked for what its own state forbids. Nothing was changed."""


class TransportError(FederationError):
    """The link to the broker failed. What was under way may or may not have arrived.

    Args:
        what: the cause, in a few words.
        taken_over: the broker says that another client with the same id has connected.
    """

    def __init__(self, what: str, *, taken_over: bool = False) -> None:
        self.what, self.taken_over = what, taken_over
        super().__init__(what)


def leaf_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that says most of a group: anything rather than a lost link, which many tasks notice."""
    leaves: list[BaseException] = []
    for error in errors.exceptions:
        leaves.append(leaf_of(error) if isinstance(error, BaseExceptionGroup) else error)
    return min(leaves, key=lambda error: isinstance(error, TransportError))
