"""What is known of each device that was ever given training work: how often, how well, how fast.

Made of the journal's rows alone, in their order, so a restart finds it again. One small record a device.

The chance that a device's update counts, once it is asked, is the share of its settled leases that were accepted,
smoothed: a device begins with the share of its class, a class with that of the fleet. An update that was lost, failed,
came late or was no longer needed has not counted; one that was rejected says nothing about links and batteries, and is
left out.

How many bytes a second a device's link takes up is measured by its updates that counted: their size over what is left
of the time from lease to verdict without what the device says that it spent on the model's way down, on training and
offline. That bounds the rate from below, for it has the words that go back and forth in it, and whatever kept the
aggregator busy: so the largest of the last few is taken. Of a small update, which comes inside its report, nearly all
of that time is such words, and it says little: a second is left out, but at most half of all, so that what is taken for
the rate is never over twice that bound. An update that was on its way up and came too late halves what was measured;
without any measure the device's link is known to be too thin.

What a device counts against others is known of its last update that did.
"""

import sys
from dataclasses import dataclass

from aggregator.records import AcceptRecord, LeaseRecord
from aggregator.selection import Candidate
from shared.messages import Kind, Outcome

__all__ = ["TrackRecords"]

DEVICE_PRIOR = 4.0
CLASS_PRIOR = 10.0
"""As if so many leases of a device had been settled before its first, as in its class; of a class, as in the fleet."""
RATES_KEPT = 3
"""Of a device's link: one good hour is forgotten after so many updates."""
WORDS_S = 1.0
"""Of the time from lease to verdict: what goes back and forth besides the update."""


@dataclass(slots=True)
class _Share:
    """How many leases were settled, and how many of them counted."""

    n_settled: int = 0
    n_counted: int = 0

    def smoothed(self, prior: float, strength: float) -> float:
        return (self.n_counted + strength * prior) / (self.n_settled + strength)


@dataclass(slots=True)
class _TrackRecord:
    device_class: str
    leases: _Share
    n_asked: int = 0
    asked_round: int | None = None
    counted_round: int | None = None
    num_examples: int = 0
    weight: float = 0.0
    loss: float | None = None
    seconds: float = 0.0
    codec: str = ""
    rates: tuple[float, ...] = ()


class TrackRecords:
    """The records of a run."""

    def __init__(self) -> None:
        self._of: dict[str, _TrackRecord] = {}
        self._classes: dict[str, _Share] = {}
        self._fleet = _Share()
        self._weight_of_all, self._n_weighed = 0.0, 0  # Σ weight of the last update of each device that had one
        self._utilities: dict[int, float] = {}  # round -> Σ num_examples x loss, in order of the rounds
        self.n_asked = 0
        """Train leases so far."""

    def __len__(self) -> int:
        return len(self._of)

    @property
    def utilities(self) -> tuple[float, ...]:
        """Σ num_examples x loss of each round that accepted something, oldest first."""
        return tuple(self._utilities.values())

    def asked(self, lease: LeaseRecord) -> None:
        """A lease was given."""
        if lease.kind is not Kind.TRAIN:
            return
        found = self._of.get(lease.device)
        if found is None:
            found = self._of[lease.device] = _TrackRecord("", _Share())
        found.device_class = sys.intern(lease.device_class)
        found.n_asked += 1
        found.asked_round = lease.round_id
        found.codec = sys.intern(lease.codec)
        self.n_asked += 1

    def counted(self, update: AcceptRecord) -> None:
        """An update was accepted."""
        found = self._of.get(update.device)
        if found is None:  # its LEASE row was lost with a damaged journal
            found = self._of[update.device] = _TrackRecord("", _Share())
        found.counted_round = update.round_id
        found.num_examples, found.loss, found.seconds = update.num_examples, update.loss, update.seconds
        self._weight_of_all += update.weight - found.weight
        self._n_weighed += not found.weight
        found.weight = update.weight
        if (rate := _rate_of(update)) is not None:
            found.rates = (*found.rates, rate)[-RATES_KEPT:]
        gain = update.num_examples * max(0.0, update.loss or 0.0)
        self._utilities[update.round_id] = self._utilities.get(update.round_id, 0.0) + gain
        self._settle(found, 1)

    def settled(self, device: str, outcome: Outcome, *, was_uploading: bool = False) -> None:
        """A train lease of this device ended in another way than accepted."""
        found = self._of.get(device)
        if found is not None and was_uploading:
            found.rates = tuple(rate / 2 for rate in found.rates) or (0.0,)
        if found is not None and outcome is not Outcome.REJECTED:
            self._settle(found, 0)

    def chance(self, device: str, device_class: str = "") -> float:
        """Return the chance in (0, 1] that an update of this device counts, once it is asked.

        Args:
            device: its id.
            device_class: of a device that was never asked.
        """
        found = self._of.get(device)
        return self._chance(found, device_class if found is None else found.device_class)

    def uplink(self, device: str) -> float | None:
        """Return how many bytes a second come up from a device; None: nothing is known of its link."""
        found = self._of.get(device)
        return max(found.rates) if found is not None and found.rates else None

    def relative_weight(self, device: str) -> float:
        """Return how many times as much a device counts as the mean of all; 1 when nothing is known of it."""
        found = self._of.get(device)
        return found.weight * self._n_weighed / self._weight_of_all if found is not None and found.weight else 1.0

    def codec_of(self, device: str) -> str:
        """Return with which codec a device was asked last, "" if it never was."""
        found = self._of.get(device)
        return "" if found is None else found.codec

    def candidate(self, device: str, device_class: str) -> Candidate:
        """Return what a selection rule is told of a device, as it describes itself now."""
        found = self._of.get(device)
        if found is None:
            return Candidate(device=device, device_class=device_class, chance=self._chance(None, device_class))
        return Candidate(
            device=device,
            device_class=device_class,
            n_asked=found.n_asked,
            n_counted=found.leases.n_counted,
            asked_round=found.asked_round,
            counted_round=found.counted_round,
            num_examples=found.num_examples,
            loss=found.loss,
            seconds=found.seconds,
            chance=self._chance(found, device_class),
        )

    def _settle(self, found: _TrackRecord, n_counted: int) -> None:
        of_class = self._classes.setdefault(found.device_class, _Share())
        for share in (found.leases, of_class, self._fleet):
            share.n_settled += 1
            share.n_counted += n_counted

    def _chance(self, found: _TrackRecord | None, device_class: str) -> float:
        fleet = self._fleet.smoothed(1.0, 1.0)
        of_class = self._classes.get(device_class)
        prior = fleet if of_class is None else of_class.smoothed(fleet, CLASS_PRIOR)
        return prior if found is None else found.leases.smoothed(prior, DEVICE_PRIOR)


def _rate_of(update: AcceptRecord) -> float | None:
    """Return how fast an update came up in bytes a second; None: the device's words do not fit our clock."""
    seconds = update.seconds - update.fetch_seconds - update.train_seconds - update.offline_seconds
    if seconds <= 0:  # a restart in between, or a device that lies: for a rate of its own alone
        return None
    return update.size / max(seconds - WORDS_S, seconds / 2)
