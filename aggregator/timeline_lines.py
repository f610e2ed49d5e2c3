"""The lines of `timeline.jsonl`: what the aggregator saw of leases, refusals, pauses, its own starts, the population.

A view, not the truth: nothing is read from it to go on with a run. Of two lines about one lease the later holds.

Not here: who makes them (`lease_timelines.py`), what they mean (`explanation.py`).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from aggregator.json_lines import read_lines
from shared.errors import ConfigError

__all__ = [
    "PARTS",
    "LeaseLine",
    "PauseLine",
    "PopulationLine",
    "RefusalLine",
    "StartLine",
    "TimelineLine",
    "as_entry",
    "read_timeline",
]

PARTS = ("waiting", "download", "training", "upload", "offline")
"""Where the time of a lease goes, in the order of `LeaseLine.parts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLine:
    """One train lease that has ended.

    Args:
        lease: its name.
        device: that had it.
        round_id: in which it was given.
        state: its final outcome; the journal's holds, when it says another.
        given_at: Unix time.
        seconds: from then, or from the aggregator's start when it `is_resumed`, to its end.
        parts: of these seconds, by `PARTS`; they sum to them within rounding.
        last: what the device did when it ended, or when it went offline.
        is_online: whether it was there at the end.
        is_resumed: whether it was given before the last start of the aggregator: what came before is not known.
        offered_after_s: when its update was first offered, from `given_at`; None: never.
        after_close_s: how much later than the end of collecting for the version it could first have helped; None: it
            was not closed then, or counted.
    """

    lease: str
    device: str
    round_id: int
    state: str
    given_at: float
    seconds: float
    parts: tuple[float, ...]
    last: str
    is_online: bool
    is_resumed: bool = False
    offered_after_s: float | None = None
    after_close_s: float | None = None
    kind: Literal["lease"] = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalLine:
    """A device may not take part from round `round_id` on; `reason` None: it may again, or has gone, after that one."""

    device: str
    device_class: str
    round_id: int
    reason: str | None
    detail: str
    at: float
    kind: Literal["refusal"] = "refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLine:
    """The aggregator has started: refusals from before are not known to hold after round `round_id`."""

    round_id: int
    at: float
    kind: Literal["start"] = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseLine:
    """The run stands still from then on, in or after round `round_id`: the detail by cause; none: it goes on."""

    round_id: int
    causes: dict[str, str]
    at: float
    kind: Literal["pause"] = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationLine:
    """How many devices of each class have checked in since the aggregator started, at the end of a round."""

    round_id: int
    by_class: dict[str, int]
    kind: Literal["population"] = "population"


TimelineLine: TypeAlias = LeaseLine | RefusalLine | PauseLine | StartLine | PopulationLine

_KINDS: dict[str, TypeAdapter[Any]] = {
    "lease": TypeAdapter(LeaseLine),
    "refusal": TypeAdapter(RefusalLine),
    "pause": TypeAdapter(PauseLine),
    "start": TypeAdapter(StartLine),
    "population": TypeAdapter(PopulationLine),
}


def as_entry(line: TimelineLine) -> dict[str, Any]:
    """Return a line as JSON knows it."""
    return asdict(line)


def read_timeline(path: Path) -> Iterator[TimelineLine]:
    """Yield the lines of a file, also while it is being written; nothing when there is none.

    Raises:
        ConfigError: a line is not one of ours.
    """
    try:
        for number, entry in read_lines(path):
            try:
                line: TimelineLine = _KINDS[entry["kind"]].validate_python(entry)
            except (KeyError, TypeError, ValidationError) as error:
                hint = "the file is a view: move it away, and times that only it knew are shown as unknown"
                raise ConfigError("not a line of a timeline", where=f"{path} line {number}", hint=hint) from error
            yield line
    except FileNotFoundError:
        return
