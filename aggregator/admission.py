"""Whether a message is believed: the cheapest check first, every refusal one `PeerError` with its reason.

Order: topic grammar (`shared/topics.py`), lease, rate, whether the lease is final (`reception.py`), payload length,
msgpack with caps and field types (`shared/wire.py`), then here run, lease, codec and the length against the run's own
spec. Digest, finiteness and norm follow off the event loop (`intake.py`). Shapes never come from a device.
"""

from dataclasses import dataclass

from aggregator.leases import Lease, LeaseBook
from shared.codecs import Codec, refuse_length
from shared.errors import PeerError, Reason
from shared.initial_loss import initial_loss_of
from shared.messages import Kind, Report, Reported

__all__ = ["MessageRates", "TokenBucket", "check_report", "lease_for"]

MESSAGES_A_LEASE = 3
"""A report, the check-in after its outcome, and one that asks again."""
BURST_SECONDS = 10.0
"""A device may save up this many seconds' worth of messages."""
PRUNE_FROM = 1000
"""Buckets that are kept whatever is in them: looking through fewer saves nothing."""


@dataclass(slots=True)
class TokenBucket:
    """How many messages a device may still send; a plain value that is refilled when looked at."""

    tokens: float
    filled_at: float

    @classmethod
    def full(cls, rate: float, now: float) -> "TokenBucket":
        """Return a bucket with a whole burst in it."""
        return cls(rate * BURST_SECONDS, now)

    def take(self, rate: float, now: float) -> None:
        """Take one message's worth.

        Args:
            rate: messages a second.
            now: seconds.

        Raises:
            PeerError: the device is over its rate (`rate`).
        """
        self.tokens = min(rate * BURST_SECONDS, self.tokens + rate * (now - self.filled_at))
        self.filled_at = now
        if self.tokens < 1:
            raise PeerError(Reason.RATE, f"over {rate:g} messages a second")
        self.tokens -= 1


class MessageRates:
    """A bucket for each device that spoke lately; one that is full again is forgotten.

    Args:
        rate: messages a second, of one device.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: dict[str, TokenBucket] = {}
        self._newest_lease: dict[str, str] = {}
        self._prune_at = PRUNE_FROM

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, device: str, now: float) -> None:
        """Take one message's worth of a device.

        Raises:
            PeerError: it is over its rate (`rate`).
        """
        bucket = self._buckets.get(device)
        if bucket is None:
            if len(self._buckets) >= self._prune_at:
                oldest = now - BURST_SECONDS
                self._buckets = {name: each for name, each in self._buckets.items() if each.filled_at > oldest}
                self._prune_at = max(PRUNE_FROM, 2 * len(self._buckets))
            bucket = self._buckets[device] = TokenBucket.full(self._rate, now)
        bucket.take(self._rate, now)

    def leased(self, device: str, lease: str) -> None:
        """Let a device answer a new lease over its rate, for rounds may be quick; a repeated one earns nothing.

        Args:
            device: whose.
            lease: its name.
        """
        bucket = self._buckets.get(device)
        if bucket is not None and self._newest_lease.get(device) != lease:
            bucket.tokens += MESSAGES_A_LEASE
        self._newest_lease[device] = lease


def lease_for(leases: LeaseBook, device: str, name: str) -> Lease:
    """Return the lease that a topic names.

    Raises:
        PeerError: there is none of that name (`unknown_lease`), or it is another device's (`foreign_lease`).
    """
    lease = leases.get(name)
    if lease is None:
        raise PeerError(Reason.UNKNOWN_LEASE, name)
    if lease.record.device != device:
        raise PeerError(Reason.FOREIGN_LEASE, f"{name} is not {device}'s")
    return lease


def check_report(
    report: Report, lease: Lease, *, run: str, codec: Codec, n_params: int, needs_loss: bool = False
) -> None:
    """Hold a report against its lease and the run's own spec.

    Args:
        report: decoded, its fields within the protocol's bounds.
        lease: the one its topic names.
        run: the run served.
        codec: the one that the lease assigned.
        n_params: length of the model's flat vector.
        needs_loss: whether an update counts by the loss that it began with, as for q-FedAvg.

    Raises:
        PeerError: `other_run`, `fields`, `codec`, `length` or `size`.
    """
    if report.run != run:
        raise PeerError(Reason.OTHER_RUN, report.run)
    if report.lease != lease.record.lease:
        raise PeerError(Reason.FIELDS, "the report names another lease than its topic")
    if report.outcome is Reported.FAILED:
        return
    if (report.outcome is Reported.TRAINED) != (lease.record.kind is Kind.TRAIN):
        raise PeerError(Reason.FIELDS, f"{report.outcome} under a lease to {lease.record.kind}")
    if report.outcome is Reported.EVALUATED:
        return
    if needs_loss:
        initial_loss_of(report.metrics, reason=Reason.FIELDS)
    if report.codec != lease.record.codec:
        raise PeerError(Reason.CODEC, f"{report.codec!r}, assigned was {lease.record.codec!r}")
    size = report.size or 0  # a trained report has one
    refuse_length(codec, size, n_params)
    if size > lease.record.max_bytes:
        raise PeerError(Reason.SIZE, f"{size} bytes, at most {lease.record.max_bytes}")
    if report.data is not None and len(report.data) != size:
        raise PeerError(Reason.SIZE, f"{len(report.data)} bytes of data, the report says {size}")
