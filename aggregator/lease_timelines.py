"""What the aggregator saw of every lease: where its time went, and how it ended; who may not take part; and pauses.

Pure: events and rows in, lines out, each exactly once. O(open leases) memory, beside one entry a refused device. What
a lease became, the journal says; this adds the times that the journal has no room for, above all of devices that never
reported. The time of a lease is cut at each word that is heard about it, so its parts always sum to its life:

waiting    given out, and no word of the device yet; or idle in the device's own words
download   the device fetches the model
training   it trains
upload     it has an update, and offers or sends it, until the verdict
offline    its newest connection has ended

A device that trains on while it is offline is offline here: nobody could know. When it reports, its own word counts
(`explanation.py`).

Not here: the file (`timekeeping.py`), what it means (`explanation.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.leases import LeaseState
from aggregator.phases import PauseCause
from aggregator.records import AcceptRecord, CloseRecord, LeaseRecord, OutcomeRecord, RoundRecord
from aggregator.timeline_lines import PARTS, LeaseLine, PauseLine, PopulationLine, RefusalLine, StartLine, TimelineLine
from shared.messages import Kind

__all__ = ["LeaseTimelines"]

WAITING, DOWNLOAD, TRAINING, UPLOAD, OFFLINE = range(len(PARTS))
_PART_OF_PHASE = {"fetching": DOWNLOAD, "training": TRAINING, "reporting": UPLOAD, "uploading": UPLOAD}
MAX_REFUSED = 100_000
"""Refused devices that are remembered; past it the oldest is forgotten, like everywhere where names are made up."""
CLOSES_KEPT = 8
"""Versions whose closing is remembered, to say how much later an update came."""


@dataclass(slots=True)
class _Timeline:
    """One open lease."""

    record: LeaseRecord
    given_at: float
    since: float
    part: int = WAITING
    part_before: int = WAITING
    is_online: bool = True
    is_resumed: bool = False
    offered_at: float | None = None
    seconds: list[float] | None = None

    def goes_on(self, part: int, now: float) -> None:
        """From now on the time goes to another part."""
        if self.seconds is None:
            self.seconds = [0.0] * len(PARTS)
        self.seconds[self.part] += now - self.since
        self.since, self.part = now, part


class LeaseTimelines:
    """Told of everything the round machine is told and answers.

    Args:
        unix_offset_s: Unix time less the clock of `now`, in seconds.
    """

    def __init__(self, unix_offset_s: float) -> None:
        self._offset_s = unix_offset_s
        self._open: dict[str, _Timeline] = {}
        self._of_device: dict[str, list[_Timeline]] = {}
        self._refused: dict[str, tuple[str, str]] = {}  # device -> reason, class
        self._closed_at: dict[int, float] = {}  # version -> when no more was taken for it
        self._by_class: dict[str, int] = {}
        self._causes: dict[PauseCause, str] = {}  # for which the run stands still
        self.round_id = 0
        self.is_between = True
        """Whether no round is collecting: a refusal that begins now keeps a device out of the next."""
        self._lines: list[TimelineLine] = []

    @property
    def n_open(self) -> int:
        """Leases that are followed."""
        return len(self._open)

    @property
    def n_lines(self) -> int:
        """Lines that wait to be taken."""
        return len(self._lines)

    def start(self, open_leases: Iterable[LeaseRecord], round_id: int, now: float, *, is_between: bool) -> None:
        """The aggregator has started: these leases were out before, and nobody knows what their devices did."""
        self.round_id, self.is_between = round_id, is_between
        self._lines.append(StartLine(round_id=round_id, at=self._unix(now)))
        for record in open_leases:
            self._leased(record, now, is_resumed=True)

    def take(self) -> list[TimelineLine]:
        """Return what is to be written, once."""
        lines, self._lines = self._lines, []
        return lines

    # what happens

    def heard(self, event: ev.Event, now: float) -> None:
        """The round machine is told of an event."""
        match event:
            case ev.Progressed(lease=name, phase=phase):
                timeline = self._open.get(name)
                if timeline is not None and timeline.record.device == event.device:
                    timeline.is_online = True
                    part = _PART_OF_PHASE.get(phase, WAITING) if phase else UPLOAD  # "": a chunk of it arrived
                    if part != timeline.part:
                        timeline.goes_on(part, now)
            case ev.Offered(lease=name):
                timeline = self._open.get(name)
                if timeline is not None:
                    timeline.is_online = True
                    timeline.offered_at = now if timeline.offered_at is None else timeline.offered_at
                    if timeline.part != UPLOAD:
                        timeline.goes_on(UPLOAD, now)
            case ev.DeviceOffline(device=device):
                for timeline in self._of_device.get(device, ()):
                    if timeline.is_online:
                        timeline.is_online, timeline.part_before = False, timeline.part
                        timeline.goes_on(OFFLINE, now)
                self._lifted(device, now)
            case ev.CheckedIn(device=device):
                for timeline in self._of_device.get(device, ()):
                    if not timeline.is_online and timeline.record.lease in event.holds:
                        timeline.is_online = True
                        timeline.goes_on(timeline.part_before, now)  # until its status says more
                if event.refusal is None:
                    self._lifted(device, now)
                else:
                    self._refuse(device, str(event.refusal), event.detail, event.device_class, now)

    def decided(self, commands: Sequence[cmd.Command], now: float) -> None:
        """The round machine has answered."""
        for command in commands:
            match command:
                case cmd.Journal(record=LeaseRecord() as record):
                    self._leased(record, now)
                case cmd.Journal(record=AcceptRecord() as record):
                    self._ended(record.lease, LeaseState.ACCEPTED, record.into, now)
                case cmd.Journal(record=OutcomeRecord() as record):
                    self._ended(record.lease, LeaseState(record.outcome), None, now)
                case cmd.Journal(record=RoundRecord() as record):
                    self.round_id, self.is_between = record.round_id, False
                case cmd.Journal(record=CloseRecord() as record):
                    self._closed_at[record.into] = now
                    if len(self._closed_at) > CLOSES_KEPT:
                        del self._closed_at[next(iter(self._closed_at))]
                case cmd.RoundEnded():
                    self.is_between = True

    def counted(self, by_class: dict[str, int]) -> None:
        """Note how many devices of each class have checked in; a line when that has changed."""
        if by_class != self._by_class:
            self._by_class = dict(by_class)
            self._lines.append(PopulationLine(round_id=self.round_id, by_class=dict(sorted(by_class.items()))))

    def stands_still(self, causes: Mapping[PauseCause, str], now: float) -> bool:
        """Note why the run stands still, or that it goes on; return whether that is news."""
        if causes == self._causes:
            return False
        self._causes = dict(causes)
        told = {str(cause): detail for cause, detail in causes.items()}
        self._lines.append(PauseLine(round_id=self.round_id, causes=told, at=self._unix(now)))
        return True

    # how it is noted

    @property
    def _concerned(self) -> int:
        """The round that a refusal which begins now keeps a device out of."""
        return self.round_id + self.is_between

    def _unix(self, now: float) -> float:
        return round(now + self._offset_s, 3)

    def _leased(self, record: LeaseRecord, now: float, *, is_resumed: bool = False) -> None:
        if record.kind is not Kind.TRAIN:
            return
        timeline = _Timeline(record, given_at=now, since=now, is_resumed=is_resumed)
        self._open[record.lease] = timeline
        self._of_device.setdefault(record.device, []).append(timeline)

    def _ended(self, lease: str, state: LeaseState, into: int | None, now: float) -> None:
        timeline = self._open.pop(lease, None)
        if timeline is None:
            return  # an evaluation
        record = timeline.record
        others = [other for other in self._of_device.pop(record.device) if other is not timeline]
        if others:
            self._of_device[record.device] = others
        last = timeline.part if timeline.is_online else timeline.part_before
        timeline.goes_on(timeline.part, now)
        closed_at = self._closed_at.get(record.base_version + 1) if into is None else None
        line = LeaseLine(
            lease=lease,
            device=record.device,
            round_id=record.round_id,
            state=str(state),
            given_at=self._unix(timeline.given_at),
            seconds=round(now - timeline.given_at, 3),
            parts=tuple(round(part, 3) for part in timeline.seconds or ()),
            last=PARTS[last],
            is_online=timeline.is_online,
            is_resumed=timeline.is_resumed,
            offered_after_s=None if timeline.offered_at is None else round(timeline.offered_at - timeline.given_at, 3),
            after_close_s=None if closed_at is None else round(now - closed_at, 3),
        )
        self._lines.append(line)

    def _refuse(self, device: str, reason: str, detail: str, device_class: str, now: float) -> None:
        known = self._refused.get(device)
        if known == (reason, device_class):
            return  # its words may change at every check-in, such as the charge of its battery
        if known is None and len(self._refused) >= MAX_REFUSED:
            self._lifted(next(iter(self._refused)), now)
        self._refused[device] = (reason, device_class)
        self._note_refusal(device, reason, detail, device_class, now)

    def _lifted(self, device: str, now: float) -> None:
        known = self._refused.pop(device, None)
        if known is not None:
            self._note_refusal(device, None, "", known[1], now)

    def _note_refusal(self, device: str, reason: str | None, detail: str, device_class: str, now: float) -> None:
        line = RefusalLine(
            device=device,
            device_class=device_class,
            round_id=self.round_id if reason is None else self._concerned,
            reason=reason,
            detail=detail,
            at=self._unix(now),
        )
        self._lines.append(line)
