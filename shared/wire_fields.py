"""The field types of the wire messages: what a name, a count, a text or a table may be.

A text for people is shortened where a value of the user's own is refused. Tables have bounds in bytes, so that no
message with one in it is over its cap.
"""

import math
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from shared.errors import Reason

__all__ = [
    "MAX_EXAMPLES",
    "MAX_TEXT_BYTES",
    "ChunkBytes",
    "Conditions",
    "Count",
    "Digest",
    "Finite",
    "Lax",
    "LeaseId",
    "Metrics",
    "Name",
    "Options",
    "Seconds",
    "ShownMetrics",
    "Text",
    "WireMetric",
    "WireReason",
    "Word",
    "for_people",
]

MAX_EXAMPLES = 2**53 - 1
"""A count that every language's number type holds exactly."""
MAX_TEXT_BYTES = 256
"""Of one string as UTF-8: `wire.py` refuses a longer one before it is built."""
MAX_TABLE_BYTES = 2048
"""Of the names and values of a user's table: a message with one in it then stays under its cap of 4 KiB."""
MAX_SHOWN_BYTES = 1024

T = TypeVar("T")


def for_people(text: str) -> str:
    """Return a text as it may stand in a message, a log and a terminal: one printable line of at most 256 bytes."""
    if text.isprintable() and text.isascii() and len(text) <= MAX_TEXT_BYTES:
        return text
    line = "".join(c if c.isprintable() else " " for c in text[: MAX_TEXT_BYTES * 2])
    return line.encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore")


def _tidied(value: object) -> object:
    return for_people(value) if isinstance(value, str) else value


def _fits(text: str) -> str:
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"String should have at most {MAX_TEXT_BYTES} bytes")
    return text


def _table_bytes(table: Mapping[str, object]) -> int:
    """Return at least what a table takes as msgpack, and about what it takes as JSON."""
    return sum(len(name.encode()) + (len(v.encode()) if isinstance(v, str) else 20) + 4 for name, v in table.items())


def _table_of(at_most: int) -> AfterValidator:
    def fits(table: T) -> T:
        if isinstance(table, Mapping) and _table_bytes(table) > at_most:
            raise ValueError(f"Dictionary should have at most {at_most} bytes of names and values")
        return table

    return AfterValidator(fits)


def _shown(table: object) -> object:
    """Leave out of metrics for people what is no number, and what is too much to show."""
    if not isinstance(table, Mapping):
        return table
    shown: dict[object, object] = {}
    for name, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if _table_bytes({str(n): v for n, v in {**shown, name: value}.items()}) > MAX_SHOWN_BYTES:
            break
        shown[name] = value
    return shown


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
LeaseId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
ChunkBytes = Annotated[int, Field(ge=4096, le=262_144)]
Word = Annotated[str, Field(max_length=64), AfterValidator(_fits)]
Text = Annotated[str, BeforeValidator(_tidied)]
"""For people to read: shortened rather than refused."""
Value = Annotated[str, AfterValidator(_fits)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Conditions = Annotated[dict[Word, bool | Finite | Value], Field(max_length=16), _table_of(384)]
Options = Annotated[dict[Word, bool | Finite | Value], Field(max_length=64), _table_of(MAX_TABLE_BYTES)]
"""The user's own numbers of `[training.options]`."""
# On the wire an enum is a string and a pair an array: these alone are converted.
Lax = Strict(False)
WireReason = Annotated[Reason, Lax]
WireMetric = Finite | Annotated[tuple[Finite, Finite], Lax]
"""A float, or a ratio as [numerator, denominator]."""
Metrics = Annotated[dict[Word, WireMetric], Field(max_length=64), _table_of(MAX_TABLE_BYTES)]
ShownMetrics = Annotated[dict[Word, Finite], Field(max_length=32), BeforeValidator(_shown)]
