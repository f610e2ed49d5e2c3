"""When a device is there: always, by the hour, while charging, or as a trace says. Functions of seed and device.

What it means not to be there depends on why. Outside of its *hours* a device is switched off in good order. One that
takes part while *charging* is ended by its system when the cable is pulled, as Android ends a job whose constraints no
longer hold. A *trace* says when a device can be reached: outside of it its link is down, and its work goes on. In each
case its outbox is on its disk.

Not here: switching anything (`runs/fates.py`), reading a trace (`traces.py`).
"""

import math
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from simulator.scenarios.traces import Trace

__all__ = ["ALWAYS", "Absence", "Availability", "Charging", "Span", "always_or_table", "spans"]

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
PLUG_S = HOUR_S
"""Within an hour of the time that is written people plug in, and pull out again: no fleet does it in one second."""

Hour = Annotated[float, Field(ge=0, le=24, allow_inf_nan=False)]
Span: TypeAlias = tuple[float, float]
"""From when until when, in seconds."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Charging(_Section):
    """While charging at night, say."""

    from_hour: Hour = Field(alias="from", description="hour of the day from which it is plugged in, within an hour")
    to_hour: Hour = Field(alias="to", description="hour of the day until which it is, within an hour")
    chance: float = Field(1.0, gt=0, le=1, description="that it is plugged in on a given day")

    @model_validator(mode="after")
    def _is_long_enough(self) -> Self:
        if (self.to_hour - self.from_hour) % 24 < 2 * PLUG_S / HOUR_S:
            raise ValueError("from, to: at least two hours, for people plug in and pull out within an hour")
        return self


class Absence(StrEnum):
    """What becomes of a device that is not there."""

    OFF = "off"  # switched off in good order
    OUT_OF_REACH = "out_of_reach"  # its link is down


class Availability(_Section):
    """When a device is there; at most one of the keys."""

    hours: list[tuple[Hour, Hour]] | None = Field(
        None, min_length=1, description="[[22, 6]]: hours of the day in which it is switched on"
    )
    charging: Charging | None = Field(None, description="{ from = 22, to = 7, chance = 0.9 }: while it is charging")
    trace: Path | None = Field(
        None, description="CSV beside the scenario: device,from_s,to_s,state (up or down); otherwise out of reach"
    )

    @field_validator("hours")
    @classmethod
    def _are_spans(cls, hours: list[tuple[float, float]] | None) -> list[tuple[float, float]] | None:
        for start, end in hours or ():
            if start % 24 == end % 24:
                raise ValueError(f"[{start:g}, {end:g}] is no span: leave availability out for always")
        covered = sorted(piece for start, end in hours or () for piece in _pieces(start, end))
        for (_, before), (start, _) in pairwise(covered):
            if start < before:
                raise ValueError(f"spans overlap at {start:g}")
        return hours

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(each is not None for each in (self.hours, self.charging, self.trace)) > 1:
            raise ValueError("hours, charging and trace exclude each other: keep one")
        return self

    @property
    def absence(self) -> Absence:
        """What becomes of it while it is not there."""
        return Absence.OUT_OF_REACH if self.trace is not None else Absence.OFF

    @property
    def is_always(self) -> bool:
        """Whether it is there all the time."""
        return self.hours is None and self.charging is None and self.trace is None


ALWAYS = Availability()


def always_or_table(written: object) -> object:
    """Return what a scenario says of availability as its fields: the word "always", or a table.

    Raises:
        ValueError: it is another word.
    """
    if written == "always":
        return {}
    if isinstance(written, str):
        raise ValueError(f'{written!r}: "always", or a table with hours, charging or trace')
    return written


def spans(
    availability: Availability, *, seed: int, device: str, trace: Trace | None = None, start_hour: float = 0.0
) -> Iterator[Span]:
    """Yield when a device is there, in order, without end; neither touches nor overlaps the next.

    Args:
        availability: its group's.
        seed: of the scenario.
        device: its id.
        trace: its own, for an availability that names a file.
        start_hour: the hour of the day at which the run begins.
    """
    if availability.hours is not None:
        yield from _cut(_joined(_daily(availability.hours)), start_hour * HOUR_S)
    elif availability.charging is not None:
        yield from _cut(_joined(_nightly(availability.charging, seed, device)), start_hour * HOUR_S)
    elif trace is not None:
        yield from _joined(_repeated(trace))
    else:
        yield 0.0, math.inf


def _pieces(start: float, end: float) -> list[Span]:
    """Return a span of hours as one within the day, or as two when it goes over midnight."""
    if start < end:
        return [(start, end)]
    return [piece for piece in ((0.0, end), (start, 24.0)) if piece[0] < piece[1]]


def _daily(hours: list[tuple[float, float]]) -> Iterator[Span]:
    pieces = sorted(piece for start, end in hours for piece in _pieces(start, end))
    day = 0
    while True:
        yield from ((day * DAY_S + start * HOUR_S, day * DAY_S + end * HOUR_S) for start, end in pieces)
        day += 1


def _nightly(charging: Charging, seed: int, device: str) -> Iterator[Span]:
    lasts_s = (charging.to_hour - charging.from_hour) % 24 * HOUR_S
    day = -1  # the night that began on the evening before
    while True:
        rng = Random(f"{seed}/{device}/charging/{day}")
        is_plugged = rng.random() < charging.chance
        plug_s, pull_s = rng.uniform(0.0, PLUG_S), rng.uniform(0.0, PLUG_S)
        start_s = day * DAY_S + charging.from_hour * HOUR_S
        if is_plugged:
            yield start_s + plug_s, start_s + lasts_s - pull_s
        day += 1


def _repeated(trace: Trace) -> Iterator[Span]:
    begun_s = 0.0
    while True:
        yield from ((begun_s + start, begun_s + end) for start, end in trace.up)
        begun_s += trace.length_s


def _joined(several: Iterator[Span]) -> Iterator[Span]:
    """Make one of spans that touch; one that goes on for a thousand pieces is for ever."""
    start, end = next(several)
    n_joined = 0
    for later_start, later_end in several:
        if later_start <= end:
            end, n_joined = max(end, later_end), n_joined + 1
            if n_joined >= 1000:
                break
        else:
            yield start, end
            start, end, n_joined = later_start, later_end, 0
    yield start, math.inf


def _cut(several: Iterator[Span], begun_s: float) -> Iterator[Span]:
    """Let time begin at `begun_s`."""
    for start, end in several:
        if end > begun_s:
            yield max(0.0, start - begun_s), end - begun_s
