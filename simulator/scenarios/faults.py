"""What goes wrong in a fleet, and when: devices that drop out, crash and reboot; the broker, the aggregator, the net.

Functions of a seed: nothing here happens, it is only said. A *crash* ends a device's process as SIGKILL does, a
*reboot* ends it in good order; both come back after `down_s` with what was on the disk. A *dropout* is a crash in the
midst of one training. Between crashes, as between reboots, times are exponential.

Not here: doing it (`runs/fates.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from random import Random
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "NO_FAULTS",
    "Death",
    "DeathKind",
    "DeviceFaults",
    "FleetFault",
    "cut_off",
    "deaths",
    "drops_out",
    "instants",
]

Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeviceFaults(_Section):
    """What goes wrong on the devices of a group, each on its own."""

    dropout: float = Field(0.0, ge=0, lt=1, description="chance that a device drops out in the midst of a training")
    crash_every_s: Seconds | None = Field(None, description="mean seconds between two crashes (SIGKILL); unset: never")
    reboot_every_s: Seconds | None = Field(
        None, description="mean seconds between two reboots in good order; unset: never"
    )
    down_s: Seconds = Field(60, description="seconds until a device is back after any of these")


NO_FAULTS = DeviceFaults()


class DeathKind(StrEnum):
    """How a device's process ends."""

    CRASH = "crash"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True, order=True)
class Death:
    """A device goes down at `at_s`, seconds from the begin of the run."""

    at_s: float
    kind: DeathKind


class FleetFault(_Section):
    """What happens to all, on schedule."""

    kind: Literal["broker_restart", "partition", "aggregator_restart"] = Field(
        description="the broker or the aggregator dies and comes back; a partition cuts off part of the fleet"
    )
    at_s: float | None = Field(
        None, ge=0, le=1e9, allow_inf_nan=False, description="seconds from the begin, once; this or every_s"
    )
    every_s: Seconds | None = Field(None, description="again and again, the first time after so many seconds")
    lasts_s: float = Field(5, ge=0, le=1e9, allow_inf_nan=False, description="seconds until it is over")
    share: float | None = Field(None, gt=0, le=1, description="of the devices, for a partition")
    keeps_retained: bool = Field(
        False, description="broker_restart: whether it still has its retained messages, as with persistence"
    )

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if (self.at_s is None) == (self.every_s is None):
            raise ValueError("give at_s or every_s, and not both")
        if self.every_s is not None and self.lasts_s >= self.every_s:
            raise ValueError(
                f"lasts_s {self.lasts_s:g} is not less than every_s {self.every_s:g}: it would never be over"
            )
        if (self.kind == "partition") != (self.share is not None):
            raise ValueError("share belongs to a partition, which needs it")
        if self.keeps_retained and self.kind != "broker_restart":
            raise ValueError("keeps_retained belongs to a broker_restart")
        return self


def deaths(faults: DeviceFaults, *, seed: int, device: str) -> Iterator[Death]:
    """Yield when a device crashes and reboots, in order of time; without end unless it never does.

    Each kind draws from its own source: adding reboots moves no crash. What falls into the time in which a device is
    down already does not happen; that is for whoever carries it out.
    """
    sources: list[Iterator[Death]] = []
    if faults.crash_every_s is not None:
        sources.append(_times(faults.crash_every_s, Random(f"{seed}/{device}/crash"), DeathKind.CRASH))
    if faults.reboot_every_s is not None:
        sources.append(_times(faults.reboot_every_s, Random(f"{seed}/{device}/reboot"), DeathKind.REBOOT))
    return merge(*sources)


def _times(every_s: float, rng: Random, kind: DeathKind) -> Iterator[Death]:
    at_s = 0.0
    while True:
        at_s += rng.expovariate(1.0 / every_s)
        yield Death(at_s, kind)


def drops_out(faults: DeviceFaults, *, seed: int, device: str, training: int) -> float | None:
    """Return after which share of its time a device drops out of its n-th training; None: it does not."""
    if not faults.dropout:
        return None
    rng = Random(f"{seed}/{device}/dropout/{training}")
    return rng.random() if rng.random() < faults.dropout else None


def instants(fault: FleetFault) -> Iterator[float]:
    """Yield when a fault begins, in seconds; without end when it comes again and again."""
    if fault.at_s is not None:
        yield fault.at_s
    elif fault.every_s is not None:
        number = 1
        while True:
            yield number * fault.every_s
            number += 1


def cut_off(devices: Sequence[str], share: float, *, seed: int, number: int) -> tuple[str, ...]:
    """Return whom the n-th partition of a run cuts off: ⌈share x n⌉ of the devices, in their order.

    Args:
        devices: all ids.
        share: in (0, 1].
        seed: of the scenario.
        number: counts the partitions of a run.
    """
    n = min(len(devices), -int(-share * len(devices) // 1))
    chosen = set(Random(f"{seed}/partition/{number}").sample(range(len(devices)), n))
    return tuple(device for index, device in enumerate(devices) if index in chosen)
