"""Who has checked in, and who of them is waiting for work.

Presence steers selection only; what a device has done is told by its leases (`leases.py`).
"""

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass

from shared.errors import Reason

__all__ = ["Candidates", "Member", "Population"]

MAX_DEVICES = 100_000
"""Devices that are remembered, so that whoever makes up more names does not fill the memory."""

RETURN_S = 10.0
"""A name that checks in again so much later is believed to be a device: making one up takes a single message."""
FORGET_S = 6 * 3600.0
"""Of silence; longer than the largest fleet has between two check-ins of one device."""

CHECK_INS_MISSED = 3
"""A device whose newest check-in is older than this many intervals is not asked."""


@dataclass(slots=True)
class Member:
    """One device as it last described itself."""

    checked_in_at: float
    refusal: Reason | None = None
    detail: str = ""
    device_class: str = ""
    codecs: frozenset[str] = frozenset()
    is_online: bool = True
    is_waiting: bool = False
    is_believed: bool = False
    """Whether it has come back, or was given work."""


class Population:
    """The devices that have checked in since the aggregator started; past `max_devices` the stalest is forgotten."""

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._max_devices = max_devices
        self._members: dict[str, Member] = {}  # oldest check-in first
        self._waiting: OrderedDict[str, Member] = OrderedDict()  # oldest check-in first
        self._sitting_out: set[str] = set()  # of those that wait
        self._barred: dict[str, int] = {}  # device -> the round in which it failed or was rejected
        self._round_id = 0
        self.n_believed = 0
        """How many have come back or were given work: so many share the check-ins of a second."""

    def __len__(self) -> int:
        return len(self._members)

    def get(self, device: str) -> Member | None:
        """Return what a device said last, None if it never checked in."""
        return self._members.get(device)

    def check_in(
        self,
        device: str,
        now: float,
        *,
        refusal: Reason | None,
        detail: str = "",
        device_class: str = "",
        codecs: frozenset[str] = frozenset(),
    ) -> None:
        """Note that a device is there; without a refusal it waits for work from now on."""
        member = self._members.pop(device, None)
        if member is None:
            self._make_room(now)
            member = Member(now)
        self._members[device] = member
        if now - member.checked_in_at >= RETURN_S:
            self._believe(member)
        member.checked_in_at, member.refusal, member.detail, member.is_online = now, refusal, detail, True
        member.device_class, member.codecs = sys.intern(device_class), codecs
        self._rest(device)
        member.is_waiting = refusal is None
        if member.is_waiting:
            self._waiting[device] = member
            if self._barred.get(device) == self._round_id:
                self._sitting_out.add(device)

    def assigned(self, device: str) -> None:
        """Note that a device got work; it waits again after its next check-in."""
        self._rest(device)
        if device in self._members:
            self._believe(self._members[device])

    def offline(self, device: str) -> None:
        """Note that the newest connection of a device has ended."""
        if device in self._members:
            self._members[device].is_online = False
            self._rest(device)

    def bar(self, device: str, round_id: int) -> None:
        """Do not ask a device again in this round."""
        self._barred[device] = round_id
        if round_id == self._round_id:
            self.sits_out(device)

    def sits_out(self, device: str) -> None:
        """Do not ask a device that waits before `begin_to_ask` is called again."""
        if device in self._waiting:
            self._sitting_out.add(device)

    def begin_to_ask(self, round_id: int, still_out: Callable[[str], bool]) -> None:
        """From here on it is this round that asks: whoever was barred in another may be asked again.

        Args:
            round_id: that asks; the next one, as soon as a round is over.
            still_out: whether a device that sat out has to go on doing so.
        """
        self._round_id = round_id
        self._barred = {device: barred for device, barred in self._barred.items() if barred >= round_id}
        self._sitting_out = {
            device for device in self._sitting_out if self._barred.get(device) == round_id or still_out(device)
        }

    def waiting(self, now: float, interval_s: float) -> Collection[str]:
        """Return the devices that wait, whose newest check-in is younger than three intervals.

        Args:
            now: seconds.
            interval_s: how often a device checks in.
        """
        oldest = now - CHECK_INS_MISSED * interval_s
        while self._waiting:
            device, member = next(iter(self._waiting.items()))
            if member.checked_in_at >= oldest:
                break
            self._rest(device)
        return self._waiting.keys()

    @property
    def sitting_out(self) -> Set[str]:
        """Those that wait, and are not asked all the same."""
        return self._sitting_out

    def candidates(self, now: float, interval_s: float) -> "Candidates":
        """Return those of them that do not sit out. Costs nothing, however many there are."""
        self.waiting(now, interval_s)
        return Candidates(self._waiting, self._sitting_out)

    def willing(self) -> Iterator[str]:
        """Yield the devices that are connected and have not refused, waiting or at work."""
        return (device for device, member in self._members.items() if member.is_online and member.refusal is None)

    def counts(self) -> dict[str, int]:
        """Return how many devices are known, online, waiting and refused."""
        return {
            "known": len(self._members),
            "online": sum(member.is_online for member in self._members.values()),
            "waiting": len(self._waiting),
            "refused": sum(member.refusal is not None for member in self._members.values() if member.is_online),
        }

    def refusals(self) -> Counter[Reason]:
        """Return how many devices that are there do not take part, by reason."""
        return Counter(member.refusal for member in self._members.values() if member.refusal and member.is_online)

    def by_class(self) -> dict[str, int]:
        """Return how many devices of each class are known; "" are those that do not say."""
        return dict(Counter(member.device_class for member in self._members.values()))

    def _rest(self, device: str) -> None:
        """It does not wait for work any more."""
        self._sitting_out.discard(device)
        if self._waiting.pop(device, None) is not None:
            self._members[device].is_waiting = False

    def _believe(self, member: Member) -> None:
        self.n_believed += not member.is_believed
        member.is_believed = True

    def _make_room(self, now: float) -> None:
        """Forget who has been silent for long, two for each that is new, and the stalest when all places are taken."""
        for _ in range(2):
            stalest = next(iter(self._members), None)
            if stalest is None:
                return
            is_silent = self._members[stalest].checked_in_at < now - FORGET_S
            if not is_silent and len(self._members) < self._max_devices:
                return
            self._rest(stalest)
            self.n_believed -= self._members.pop(stalest).is_believed


class Candidates(Mapping[str, str]):
    """Who may be asked, and of which class each is: a view that changes with the population.

    Args:
        waiting: everybody who waits.
        sitting_out: of them, who is not asked.
    """

    def __init__(self, waiting: Mapping[str, Member], sitting_out: Set[str]) -> None:
        self._waiting, self._sitting_out = waiting, sitting_out

    def __len__(self) -> int:
        return len(self._waiting) - len(self._sitting_out)

    def __iter__(self) -> Iterator[str]:
        return (device for device in self._waiting if device not in self._sitting_out)

    def __contains__(self, device: object) -> bool:
        return device in self._waiting and device not in self._sitting_out

    def __getitem__(self, device: str) -> str:
        if device not in self:
            raise KeyError(device)
        return self._waiting[device].device_class
