"""What counts: which updates were accepted for which version, and whether one more would be.

An accepted update belongs to the version it will help build, not to a round: an abandoned round hands it on. One
lease counts at most once, and a device at most once a base version.
"""

from aggregator.config import Settings
from aggregator.device_states import DeviceStates
from aggregator.events import Verified
from aggregator.leases import Lease, LeaseBook, LeaseState
from aggregator.phases import EndCause
from aggregator.records import AcceptRecord
from aggregator.reweighting import finishing_factor
from aggregator.rules import clip_scale, weight_of
from aggregator.staleness import discount, staleness
from aggregator.track_records import TrackRecords
from shared.algorithms import STATEFUL, effective_steps
from shared.errors import InvalidState, Reason
from shared.messages import WorkOrder

__all__ = ["Tally"]


class Tally:
    """The books of accepted updates."""

    def __init__(self, settings: Settings, leases: LeaseBook) -> None:
        self._settings, self._leases = settings, leases
        self.records = TrackRecords()
        self.version = 0
        self.is_closed = False  # CLOSE was written for the version after `version`
        self.closed_by: EndCause | None = None
        """Why it was closed last."""
        self.last_seq = 0
        self.n_folded = 0  # accepted updates that are in a committed version
        self.n_voided = 0
        self.n_bytes = 0
        """Of updates that are accepted and not yet in a committed version."""
        self._accepted: dict[int, list[AcceptRecord]] = {}  # into -> what counts for it, not yet committed
        self.states = DeviceStates(are_kept=settings.training.algorithm in STATEFUL)
        self._bases: dict[int, set[str]] = {}  # base version -> devices with an accepted update from it

    @property
    def building(self) -> int:
        """The version that the next accepted update counts for."""
        return self.version + (2 if self.is_closed else 1)

    @property
    def n_buffered(self) -> int:
        """Accepted updates of versions that are not made yet."""
        return sum(map(len, self._accepted.values()))

    @property
    def n_accepted(self) -> int:
        """Updates that count for the version after the committed one."""
        return len(self._accepted.get(self.version + 1, ()))

    def accepted(self) -> list[AcceptRecord]:
        """Return what is accepted and not yet in a committed version, by (into, seq)."""
        return [record for into in sorted(self._accepted) for record in self._accepted[into]]

    def has_counted(self, device: str) -> bool:
        """Return whether a device has an accepted update from the committed version."""
        return device in self._bases.get(self.version, ())

    def surplus(self, lease: Lease) -> Reason | None:
        """Return why good work under this lease would not count now, None if it would."""
        base = lease.record.base_version
        if staleness(self.building, base) > self._settings.round.max_staleness:
            return Reason.GOAL_MET if base == self.version else Reason.TOO_STALE
        if lease.record.device in self._bases.get(base, ()):
            return Reason.ALREADY_COUNTED
        return None

    def accept(self, lease: Lease, update: Verified, round_id: int, now: float) -> AcceptRecord:
        """Count an update; returns the row that makes it so.

        Raises:
            InvalidState: the lease is final; nothing was changed.
        """
        weighting, knobs = self._settings.server.weighting, self._settings.round
        record = AcceptRecord(
            seq=self.last_seq + 1,
            lease=lease.record.lease,
            device=lease.record.device,
            round_id=round_id,
            base_version=lease.record.base_version,
            into=self.building,
            weight=weight_of(weighting, update.num_examples, knobs.max_examples) * self._reweight(lease),
            num_examples=update.num_examples,
            n_steps=update.n_steps,
            clip_scale=clip_scale(update.norm, self._settings.server.clip_norm),
            discount=discount(staleness(self.building, lease.record.base_version), knobs.staleness_exponent),
            codec=update.codec,
            size=update.size,
            sha256=update.sha256,
            seconds=round(now - lease.issued_at, 3),
            fetch_seconds=update.fetch_seconds,
            train_seconds=update.train_seconds,
            offline_seconds=update.offline_seconds,
            loss=update.loss,
            **self._training(lease, update),
            begins=self.states.begins(lease.record.work),
            data=update.data,
        )
        self.enter(record)
        return record

    def _training(self, lease: Lease, update: Verified) -> dict[str, float]:
        """Return what an update is folded by besides its weight: by its lease, for settings may have changed since."""
        if self._settings.training.algorithm == "qfedavg" and update.initial_loss is not None:
            return {"initial_loss": update.initial_loss, "learning_rate": _work(lease).learning_rate}
        if self._settings.training.algorithm == "fedprox" and self._settings.server.normalize == "steps":
            work = _work(lease)
            steps = effective_steps(update.n_steps, learning_rate=work.learning_rate, mu=work.mu)
            return {"effective_steps": steps}
        return {}

    def _reweight(self, lease: Lease) -> float:
        if self._settings.server.reweight == "off":
            return 1.0
        return finishing_factor(self.records.chance(lease.record.device, lease.record.device_class))

    def enter(self, record: AcceptRecord) -> None:
        """Count what the journal says, or what `accept` has just decided."""
        late = staleness(record.into, record.base_version)
        self._leases.move(self._leases[record.lease], LeaseState.ACCEPTED, staleness=late)
        self.records.counted(record)
        self.states.accepted(record.device, record.lease)
        self.last_seq = record.seq
        self._accepted.setdefault(record.into, []).append(record)
        self.n_bytes += record.size
        self._bases.setdefault(record.base_version, set()).add(record.device)

    def close(self, cause: EndCause | None = None) -> int:
        """Take no more for the next version; return the last seq that counts for it, 0 if none does."""
        self.is_closed, self.closed_by = True, cause
        return max((record.seq for record in self._accepted.get(self.version + 1, ())), default=0)

    def commit(self, version: int) -> None:
        """The next version exists.

        Raises:
            InvalidState: it is not the one that was closed.
        """
        if version != self.version + 1 or not self.is_closed:
            raise InvalidState(f"version {version} was written, {self.version + 1} is being built")
        self.version, self.is_closed = version, False
        self.states.committed()
        records = self._accepted.pop(version, [])
        self.n_folded += len(records)
        self.n_bytes -= sum(record.size for record in records)
        oldest = version - self._settings.round.max_staleness
        for base in [base for base in self._bases if base < oldest]:
            del self._bases[base]

    def void(self) -> int:
        """Throw away what was accepted for the next version; return that version."""
        records = self._accepted.pop(self.version + 1, [])
        self.n_voided += len(records)
        self.n_bytes -= sum(record.size for record in records)
        for record in records:
            self._uncount(record)
        self.is_closed = False
        return self.version + 1

    def void_one(self, lease: str) -> None:
        """Throw away one update that is accepted and not yet in a version; a closed version is open again.

        Raises:
            InvalidState: there is none of this lease.
        """
        for into, records in self._accepted.items():
            for record in records:
                if record.lease == lease:
                    records.remove(record)
                    self.n_bytes -= record.size
                    self.n_voided += 1
                    self._uncount(record)
                    self.is_closed = self.is_closed and into != self.version + 1
                    return
        raise InvalidState(f"no accepted update of lease {lease} waits for a version")

    def _uncount(self, record: AcceptRecord) -> None:
        """It does not stand in the way of another update of this device from this version."""
        self._bases.get(record.base_version, set()).discard(record.device)
        self.states.voided(record.device)

    def check(self) -> None:
        """Hold the books against the leases.

        Raises:
            InvalidState: an accepted update is unaccounted for.
        """
        if (contradiction := self.contradiction()) is not None:
            raise InvalidState(contradiction)

    def contradiction(self) -> str | None:
        """Return how the sums contradict the leases, None if they agree. Cheap enough for every event."""
        n_accepted = self._leases.n_accepted
        if n_accepted == self.n_folded + self.n_buffered + self.n_voided:
            return None
        return f"{n_accepted} accepted, {self.n_folded} folded + {self.n_buffered} buffered + {self.n_voided} voided"


def _work(lease: Lease) -> WorkOrder:
    return WorkOrder.model_validate_json(lease.record.work)
