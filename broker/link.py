"""How bad a link is, and when it is so: one description for the simulated broker and for the faulty TCP proxy.

A link takes time (latency, jitter, bandwidth), and now and then it fails in one of three ways. *Down*: what is open
breaks and nothing new gets through until it is up. *Stall*: nothing flows and nobody is told. *Reset*: what is open
breaks, and a new connection works at once. Times between failures are exponential, so failures come in clusters as on
real links; their lengths are uniform within half of their mean.

Not here: carrying bytes, and deciding who notices what.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from random import Random

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PERFECT", "Failures", "Flow", "LinkEvent", "LinkEventKind", "LinkProfile", "link_events"]


class Failures(BaseModel):
    """How often a link fails in one way, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_s: float = Field(gt=0, allow_inf_nan=False)
    """Mean time from the end of one failure to the start of the next, in seconds."""
    lasts_s: float = Field(gt=0, allow_inf_nan=False)
    """Mean length of one, in seconds; drawn uniformly from half of it to one and a half."""


class LinkProfile(BaseModel):
    """One device's link. The default is perfect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """One way, in seconds."""
    jitter_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Added to the latency, uniform from 0 to this, in seconds. Order is kept, as TCP keeps it."""
    up_bytes_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Bandwidth from the device to the broker; None: unlimited."""
    down_bytes_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Bandwidth from the broker to the device; None: unlimited."""
    outages: Failures | None = None
    """The link goes down and comes back."""
    stalls: Failures | None = None
    """Nothing flows for a while, and nobody is told."""
    resets_every_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Mean time between two resets, in seconds; None: never."""

    @property
    def takes_time(self) -> bool:
        """Whether anything on this link may arrive later than at once."""
        return bool(
            self.latency_s or self.jitter_s or self.up_bytes_per_s or self.down_bytes_per_s or self.stalls is not None
        )

    def up(self, rng: Random) -> "Flow":
        """Return the direction from the device to the broker, unused so far."""
        return Flow(self.up_bytes_per_s, self.latency_s, self.jitter_s, rng)

    def down(self, rng: Random) -> "Flow":
        """Return the direction from the broker to the device, unused so far."""
        return Flow(self.down_bytes_per_s, self.latency_s, self.jitter_s, rng)


PERFECT = LinkProfile()


class Flow:
    """One direction of a link: when will what is sent now be there?

    Args:
        bytes_per_s: bandwidth; None: unlimited.
        latency_s: one way, in seconds.
        jitter_s: added to the latency, uniform from 0 to this, in seconds.
        rng: where the jitter comes from.
    """

    __slots__ = ("_arrived", "_bytes_per_s", "_free_at", "_jitter_s", "_latency_s", "_rng")

    def __init__(self, bytes_per_s: float | None, latency_s: float, jitter_s: float, rng: Random) -> None:
        self._bytes_per_s = bytes_per_s
        self._latency_s = latency_s
        self._jitter_s = jitter_s
        self._rng = rng
        self._free_at = 0.0
        self._arrived = 0.0

    @property
    def free_at(self) -> float:
        """When the last byte so far has left the sender: before that there is no room for more."""
        return self._free_at

    def piece_bytes(self, piece_s: float, most: int) -> int:
        """Return how many bytes leave within `piece_s` seconds: at least 1, at most `most`."""
        return most if self._bytes_per_s is None else max(1, min(most, int(self._bytes_per_s * piece_s)))

    def arrival(self, n_bytes: int, now: float) -> float:
        """Send `n_bytes` behind everything sent before, and return when the last of them arrives."""
        self._free_at = max(self._free_at, now)
        if self._bytes_per_s is not None:
            self._free_at += n_bytes / self._bytes_per_s
        jitter_s = self._rng.uniform(0.0, self._jitter_s) if self._jitter_s else 0.0
        self._arrived = max(self._arrived, self._free_at + self._latency_s + jitter_s)
        return self._arrived


class LinkEventKind(StrEnum):
    """What happens to a link."""

    DOWN = "down"
    UP = "up"
    STALL = "stall"
    RESUME = "resume"
    RESET = "reset"


@dataclass(frozen=True, slots=True, order=True)
class LinkEvent:
    """One thing that happens to a link, `at_s` seconds after it was made."""

    at_s: float
    kind: LinkEventKind


def link_events(profile: LinkProfile, seed: int | str) -> Iterator[LinkEvent]:
    """Yield what happens to a link, in order of time; without end unless the profile has no failures.

    A function of its arguments. Each way of failing draws from its own source: adding stalls moves no outage.
    """
    sources: list[Iterator[LinkEvent]] = []
    if profile.outages is not None:
        rng = Random(f"{seed}/outages")
        sources.append(_failures(profile.outages, rng, LinkEventKind.DOWN, LinkEventKind.UP))
    if profile.stalls is not None:
        rng = Random(f"{seed}/stalls")
        sources.append(_failures(profile.stalls, rng, LinkEventKind.STALL, LinkEventKind.RESUME))
    if profile.resets_every_s is not None:
        sources.append(_resets(profile.resets_every_s, Random(f"{seed}/resets")))
    return merge(*sources)


def _failures(failures: Failures, rng: Random, start: LinkEventKind, end: LinkEventKind) -> Iterator[LinkEvent]:
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0 / failures.every_s)
        yield LinkEvent(at_s, start)
        at_s += failures.lasts_s * rng.uniform(0.5, 1.5)
        yield LinkEvent(at_s, end)


def _resets(every_s: float, rng: Random) -> Iterator[LinkEvent]:
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0 / every_s)
        yield LinkEvent(at_s, LinkEventKind.RESET)
