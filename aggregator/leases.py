"""The book of leases: each is in exactly one state, and the states sum to what was leased.

A lease is a numbered permission to report once: idempotency key, permission to upload and unit of back-pressure in
one. `TRANSITIONS` is the whole truth about how a lease may move; anything else raises and changes nothing.

A final outcome is kept for the run's life, in about 200 bytes: what many leases have in common is kept once, and the
work, which nobody will be told again, not at all.
"""

import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from aggregator.records import LeaseRecord
from shared.errors import InvalidState, Reason
from shared.messages import Kind, Outcome

__all__ = ["TRANSITIONS", "Lease", "LeaseBook", "LeaseState"]


class LeaseState(StrEnum):
    """Where a lease stands."""

    OUTSTANDING = "outstanding"
    EXPIRED = "expired"  # its place is refilled, its result stays admissible
    ACCEPTED = "accepted"
    DISCARDED = "discarded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the outcome stands for the run's life."""
        return self not in (LeaseState.OUTSTANDING, LeaseState.EXPIRED)


_FINAL = frozenset(state for state in LeaseState if state.is_final)
TRANSITIONS: Mapping[LeaseState, frozenset[LeaseState]] = MappingProxyType(
    {
        LeaseState.OUTSTANDING: _FINAL | {LeaseState.EXPIRED},
        # progress after expiry brings it back only while its place has not been refilled, so it never does here
        LeaseState.EXPIRED: _FINAL,
        **{state: frozenset() for state in _FINAL},
    }
)


@dataclass(slots=True, kw_only=True)
class Lease:
    """One lease and where it stands; the book alone changes it."""

    record: LeaseRecord
    state: LeaseState = LeaseState.OUTSTANDING
    issued_at: float
    expires_at: float
    reason: Reason | None = None
    detail: str = ""
    staleness: int = 0
    has_model: bool = False
    """Whether its device is known to have fetched the model: it needs the broker's copy no more."""
    is_uploading: bool = False
    """Whether its update is known to be on its way up."""

    @property
    def outcome(self) -> Outcome:
        """The final outcome as it stands in a receipt.

        Raises:
            InvalidState: there is none yet.
        """
        if not self.state.is_final:
            raise InvalidState(f"lease {self.record.lease} is {self.state}")
        return Outcome(self.state)


@dataclass(frozen=True, slots=True)
class _End:
    """What final leases have in common; most of those of one round have all of it."""

    round_id: int
    kind: Kind
    base_version: int
    codec: str
    max_bytes: int
    state: LeaseState
    reason: Reason | None
    detail: str
    staleness: int


class LeaseBook:
    """All leases of a run. A lease that is final is returned as a value of its own each time."""

    def __init__(self) -> None:
        self._open: dict[str, Lease] = {}  # not final
        self._final: dict[bytes, tuple[str, _End]] = {}  # name -> device, and how it ended
        self._ends: dict[_End, _End] = {}
        self._live: dict[str, str] = {}  # device -> its outstanding lease
        self._of_device: dict[str, list[Lease]] = {}  # not final, oldest first
        self._expiries: list[tuple[float, str]] = []  # a heap: no outstanding lease expires before its entry says
        self._counts = {kind: dict.fromkeys(LeaseState, 0) for kind in Kind}
        self._classes = Counter[str]()  # of devices with an outstanding train lease
        self.n_late = 0
        """How many accepted train leases brought an update that was late for the version it was trained for."""
        self.promised_bytes = 0
        """Of updates that may come under the leases that are not final."""
        self.n_expirations = 0
        """How often a train lease went without progress for too long; its state may have become another since."""

    def __getitem__(self, lease: str) -> Lease:
        found = self.get(lease)
        if found is None:
            raise KeyError(lease)
        return found

    def __iter__(self) -> Iterator[Lease]:
        yield from self.open()
        yield from (_as_lease(name.hex(), device, end) for name, (device, end) in self._final.items())

    def get(self, lease: str) -> Lease | None:
        """Return a lease, None if there is none of that name."""
        found = self._open.get(lease)
        if found is None and (final := self._final.get(bytes.fromhex(lease))) is not None:
            return _as_lease(lease, *final)
        return found

    @property
    def n_open_train(self) -> int:
        """Train leases that are not final: an update may still come under each."""
        return sum(n for state, n in self._counts[Kind.TRAIN].items() if not state.is_final)

    def issue(self, record: LeaseRecord, *, now: float, expires_at: float) -> Lease:
        """Enter a new outstanding lease.

        Raises:
            InvalidState: the name is taken, or the device has a live lease.
        """
        if self.get(record.lease) is not None:
            raise InvalidState(f"lease {record.lease} exists")
        if record.device in self._live:
            raise InvalidState(f"{record.device} has the live lease {self._live[record.device]}")
        lease = Lease(record=record, issued_at=now, expires_at=expires_at)
        self._open[record.lease] = lease
        self._live[record.device] = record.lease
        self._of_device.setdefault(record.device, []).append(lease)
        self._note_expiry(lease)
        self.promised_bytes += record.max_bytes
        self._counts[record.kind][LeaseState.OUTSTANDING] += 1
        if record.kind is Kind.TRAIN:
            self._classes[record.device_class] += 1
        return lease

    def _note_expiry(self, lease: Lease) -> None:
        if len(self._expiries) > 2 * len(self._live) + 64:  # most are of leases that are over
            self._expiries = [(self._open[name].expires_at, name) for name in self._live.values()]
            heapq.heapify(self._expiries)
        else:
            heapq.heappush(self._expiries, (lease.expires_at, lease.record.lease))

    def move(
        self, lease: Lease, to: LeaseState, *, reason: Reason | None = None, detail: str = "", staleness: int = 0
    ) -> None:
        """Move a lease along `TRANSITIONS`.

        Raises:
            InvalidState: it may not; nothing was changed.
        """
        if to not in TRANSITIONS[lease.state]:
            raise InvalidState(f"lease {lease.record.lease} cannot go from {lease.state} to {to}")
        counts = self._counts[lease.record.kind]
        counts[lease.state] -= 1
        counts[to] += 1
        self.n_expirations += to is LeaseState.EXPIRED and lease.record.kind is Kind.TRAIN
        if lease.state is LeaseState.OUTSTANDING:
            del self._live[lease.record.device]
            self._leave_class(lease)
        self.n_late += to is LeaseState.ACCEPTED and staleness > 0
        lease.state, lease.reason, lease.detail, lease.staleness = to, reason, detail, staleness
        if to.is_final:
            del self._open[lease.record.lease]
            self.promised_bytes -= lease.record.max_bytes
            others = [other for other in self._of_device.pop(lease.record.device) if other is not lease]
            if others:
                self._of_device[lease.record.device] = others
            self._keep(lease)

    def _leave_class(self, lease: Lease) -> None:
        if lease.record.kind is Kind.TRAIN:
            self._classes[lease.record.device_class] -= 1
            if not self._classes[lease.record.device_class]:
                del self._classes[lease.record.device_class]

    def _keep(self, lease: Lease) -> None:
        record = lease.record
        end = _End(
            record.round_id,
            record.kind,
            record.base_version,
            sys.intern(record.codec),
            record.max_bytes,
            lease.state,
            lease.reason,
            lease.detail,
            lease.staleness,
        )
        if not end.detail:  # a detail is of one lease alone
            end = self._ends.setdefault(end, end)
        self._final[bytes.fromhex(record.lease)] = (sys.intern(record.device), end)

    def live_of(self, device: str) -> Lease | None:
        """Return the outstanding lease of a device."""
        lease = self._live.get(device)
        return None if lease is None else self._open[lease]

    def open(self, kind: Kind | None = None) -> Iterator[Lease]:
        """Yield the leases that may still be decided, oldest first; safe against moving them meanwhile."""
        return (lease for lease in tuple(self._open.values()) if kind is None or lease.record.kind is kind)

    def open_of(self, device: str) -> tuple[Lease, ...]:
        """Return the leases of a device that may still be decided, oldest first."""
        return tuple(self._of_device.get(device, ()))

    @property
    def next_expiry(self) -> float | None:
        """When the first outstanding lease expires; None: none is outstanding."""
        expiries = self._expiries
        while expiries:
            at, name = expiries[0]
            lease = self._open.get(name)
            if lease is None or lease.state is not LeaseState.OUTSTANDING:
                heapq.heappop(expiries)
            elif lease.expires_at > at:  # its device has made progress
                heapq.heapreplace(expiries, (lease.expires_at, name))
            else:
                return at
        return None

    def expire(self, now: float) -> list[Lease]:
        """Move every outstanding lease whose time is over; return them, the first to expire first."""
        late: list[Lease] = []
        while (at := self.next_expiry) is not None and now >= at:
            late.append(self._open[self._expiries[0][1]])
            self.move(late[-1], LeaseState.EXPIRED)
        return late

    def moved(self, seconds: float) -> None:
        """The engine was paused for that long: no lease ran meanwhile."""
        for lease in self._open.values():
            lease.expires_at += seconds
        self._expiries = [(at + seconds, name) for at, name in self._expiries]

    def n_outstanding(self, kind: Kind) -> int:
        """Return how many leases of a kind are outstanding."""
        return self._counts[kind][LeaseState.OUTSTANDING]

    @property
    def classes(self) -> Set[str]:
        """Classes of the devices with an outstanding train lease."""
        return self._classes.keys()

    @property
    def n_accepted(self) -> int:
        """How many train leases were accepted."""
        return self._counts[Kind.TRAIN][LeaseState.ACCEPTED]

    def counts(self, kind: Kind = Kind.TRAIN) -> dict[LeaseState, int]:
        """Return how many leases of a kind are in each state."""
        return dict(self._counts[kind])

    def summary(self) -> dict[str, int]:
        """Return how many train leases are in each state; of `expired`, how many ever were; `late` of the accepted."""
        counts = {str(state): n for state, n in self.counts().items()}
        return {**counts, LeaseState.EXPIRED: self.n_expirations, "late": self.n_late}

    def check(self) -> None:
        """Recount everything.

        Raises:
            InvalidState: the book contradicts itself.
        """
        for kind in Kind:
            states = [lease.state for lease in self.open(kind)]
            states += [end.state for _, end in self._final.values() if end.kind is kind]
            for state in LeaseState:
                n = states.count(state)
                if n != self._counts[kind][state]:
                    raise InvalidState(f"{n} {kind} leases are {state}, the count says {self._counts[kind][state]}")
        live = {lease.record.device for lease in self._open.values() if not _is_expired(lease)}
        if live != self._live.keys():
            raise InvalidState(f"live leases of {sorted(live ^ self._live.keys())} are not in the book")


def _is_expired(lease: Lease) -> bool:
    return lease.state is LeaseState.EXPIRED


def _as_lease(name: str, device: str, end: _End) -> Lease:
    record = LeaseRecord(
        lease=name,
        device=device,
        round_id=end.round_id,
        kind=end.kind,
        base_version=end.base_version,
        codec=end.codec,
        max_bytes=end.max_bytes,
    )
    return Lease(
        record=record,
        state=end.state,
        issued_at=0.0,
        expires_at=0.0,
        reason=end.reason,
        detail=end.detail,
        staleness=end.staleness,
    )
