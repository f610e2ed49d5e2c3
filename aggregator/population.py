"""Who has checked in, and who of them is waiting for work.

Presence steers selection only; what a device has done is told by its leases (`leases.py`).
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from shared.errors import Reason

__all__ = ["Member", "Population"]

MAX_DEVICES = 100_000
"""Devices that are remembered, so that whoever makes up more names does not fill the memory."""

CHECK_INS_MISSED = 3
"""A device whose newest check-in is older than this many intervals is not asked."""


@dataclass(slots=True)
class Member:
    """One device as it last described itself."""

    checked_in_at: float
    refusal: Reason | None = None
    detail: str = ""
    is_online: bool = True
    is_waiting: bool = False


class Population:
    """The devices that have checked in since the aggregator started; past `max_devices` the stalest is forgotten."""

    def __init__(self, max_devices: int = MAX_DEVICES) -> None:
        self._max_devices = max_devices
        self._members: dict[str, Member] = {}  # oldest check-in first
        self._waiting: OrderedDict[str, Member] = OrderedDict()  # oldest check-in first
        self._barred: dict[str, int] = {}  # device -> the round in which it failed or was rejected

    def __len__(self) -> int:
        return len(self._members)

    def get(self, device: str) -> Member | None:
        """Return what a device said last, None if it never checked in."""
        return self._members.get(device)

    def check_in(self, device: str, now: float, *, refusal: Reason | None, detail: str = "") -> None:
        """Note that a device is there; without a refusal it waits for work from now on."""
        member = self._members.pop(device, None)
        if member is None:
            if len(self._members) >= self._max_devices:
                stalest = next(iter(self._members))
                self.assigned(stalest)
                del self._members[stalest]
            member = Member(now)
        self._members[device] = member
        member.checked_in_at, member.refusal, member.detail, member.is_online = now, refusal, detail, True
        self._waiting.pop(device, None)
        member.is_waiting = refusal is None
        if member.is_waiting:
            self._waiting[device] = member

    def assigned(self, device: str) -> None:
        """Note that a device got work; it waits again after its next check-in."""
        if self._waiting.pop(device, None) is not None:
            self._members[device].is_waiting = False

    def offline(self, device: str) -> None:
        """Note that the newest connection of a device has ended."""
        if device in self._members:
            self._members[device].is_online = False
            self.assigned(device)

    def bar(self, device: str, round_id: int) -> None:
        """Do not ask a device again in this round."""
        self._barred[device] = round_id

    def forget_barred(self) -> None:
        """A round begins: whoever was barred in an earlier one may be asked again."""
        self._barred.clear()

    def waiting(self, now: float, interval_s: float, round_id: int | None) -> Iterator[str]:
        """Yield the devices that may be asked now, whose newest check-in is younger than three intervals.

        Args:
            now: seconds.
            interval_s: how often a device checks in.
            round_id: whose barred devices are left out; None: nobody is.
        """
        oldest = now - CHECK_INS_MISSED * interval_s
        while self._waiting:
            device, member = next(iter(self._waiting.items()))
            if member.checked_in_at >= oldest:
                break
            self.assigned(device)
        return (device for device in self._waiting if round_id is None or self._barred.get(device) != round_id)

    def counts(self) -> dict[str, int]:
        """Return how many devices are known, online, waiting and refused."""
        return {
            "known": len(self._members),
            "online": sum(member.is_online for member in self._members.values()),
            "waiting": len(self._waiting),
            "refused": sum(member.refusal is not None for member in self._members.values() if member.is_online),
        }
