"""Traces: a CSV that says, device by device, from when until when it could be reached.

    device,from_s,to_s,state
    a,0,3600,up
    a,3600,7200,down
    b,0,86400,up

Seconds count from the begin of the run. Each device of the file begins at 0 and knows its state at every instant up to
its last row: a hole is a mistake of whoever measured, and is refused, as are times that overlap or go back. After its
last row a device begins anew. A group's devices take the devices of the file in their order, and share them when there
are more.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import ConfigError

__all__ = ["Trace", "read_trace"]

COLUMNS = ["device", "from_s", "to_s", "state"]
STATES = ("up", "down")


@dataclass(frozen=True, slots=True)
class Trace:
    """One device of the file.

    Args:
        device: as the file calls it.
        up: spans in which it can be reached, in seconds, in order, none touching the next.
        length_s: after which it begins anew.
    """

    device: str
    up: tuple[tuple[float, float], ...]
    length_s: float


def read_trace(lines: Iterable[str], name: str) -> tuple[Trace, ...]:
    """Read a trace.

    Args:
        lines: of the file.
        name: of the file, for errors.

    Raises:
        ConfigError: a line is not as it should be; it names file and line.
    """
    rows: dict[str, list[tuple[float, float, str]]] = {}
    reader = csv.reader(lines)
    try:
        head = next(reader, [])
        if [cell.strip() for cell in head] != COLUMNS:
            raise ConfigError(
                f"the columns are {', '.join(COLUMNS)}, not {', '.join(head) or 'none'}", where=f"{name}, line 1"
            )
        for cells in reader:
            if cells:
                where = f"{name}, line {reader.line_num}"
                device, row = _row([cell.strip() for cell in cells], where)
                _check_order(rows.setdefault(device, []), row, device, where)
                rows[device].append(row)
    except csv.Error as error:
        raise ConfigError(f"is no CSV: {error}", where=f"{name}, line {reader.line_num}") from error
    if not rows:
        raise ConfigError("no device in it", where=name)
    for device, spans in rows.items():
        if not any(state == "up" for _, _, state in spans):
            raise ConfigError(f"device {device} is never up", where=name, hint="leave it out")
    return tuple(Trace(device, _joined(spans), spans[-1][1]) for device, spans in rows.items())


def _row(cells: list[str], where: str) -> tuple[str, tuple[float, float, str]]:
    if len(cells) != len(COLUMNS):
        raise ConfigError(f"{len(cells)} cells, expected {len(COLUMNS)}: {', '.join(COLUMNS)}", where=where)
    device, *times, state = cells
    seconds: list[float] = []
    for column, text in zip(COLUMNS[1:3], times, strict=True):
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"{column} = {text!r} is no number", where=where) from None
        if not math.isfinite(value) or value < 0:
            raise ConfigError(f"{column} = {text}: seconds from the begin of the run, at least 0", where=where)
        seconds.append(value)
    from_s, to_s = seconds
    if not device:
        raise ConfigError("device is empty", where=where)
    if to_s <= from_s:
        raise ConfigError(f"to_s {to_s:g} is not after from_s {from_s:g}", where=where)
    if state not in STATES:
        raise ConfigError(f"state = {state!r}: {' or '.join(STATES)}", where=where)
    return device, (from_s, to_s, state)


def _check_order(rows: list[tuple[float, float, str]], row: tuple[float, float, str], device: str, where: str) -> None:
    end_s = rows[-1][1] if rows else 0.0
    if row[0] > end_s:
        raise ConfigError(
            f"a gap: nothing is said of device {device} from {end_s:g} to {row[0]:g} s",
            where=where,
            hint="give it a row of its own, up or down; the rows of a device stand in the order of their times",
        )
    if row[0] < end_s:
        raise ConfigError(
            f"device {device} begins at {row[0]:g} s, and the row before ends at {end_s:g} s",
            where=where,
            hint="sort each device's rows by from_s; they may not overlap",
        )


def _joined(rows: list[tuple[float, float, str]]) -> tuple[tuple[float, float], ...]:
    up: list[tuple[float, float]] = []
    for from_s, to_s, state in rows:
        if state != "up":
            continue
        if up and up[-1][1] == from_s:
            up[-1] = (up[-1][0], to_s)
        else:
            up.append((from_s, to_s))
    return tuple(up)
