"""Where an aggregator can be killed so that a row of the protocol's table of failures becomes true."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from aggregator.aggregation import Aggregation
from aggregator.journal import Journal
from aggregator.records import AcceptRecord, CommitRecord

__all__ = ["Point", "watch"]


class Point(StrEnum):
    """An instant between two steps of counting an update."""

    BEFORE_ACCEPT = "the update is whole and believed, its ACCEPT is not durable"
    AFTER_ACCEPT = "its ACCEPT is durable, its receipt was not sent"
    BEFORE_VERSION = "the updates are summed up, the version is not written"
    AFTER_VERSION = "the version is written, its COMMIT is not durable"
    AFTER_COMMIT = "COMMIT is durable, the manifest still names the version before"


_ROWS = {
    Point.BEFORE_ACCEPT: (AcceptRecord, True),
    Point.AFTER_ACCEPT: (AcceptRecord, False),
    Point.AFTER_COMMIT: (CommitRecord, False),
}


def watch(point: Point, reached: Callable[[], Awaitable[None]], patch: Callable[[Any, str, Any], None]) -> None:
    """Have `reached` awaited when an aggregator first comes to a point.

    Args:
        point: which.
        reached: must not return when the aggregator is to stay there.
        patch: sets an attribute; `monkeypatch.setattr`, or `setattr` in a process of its own.
    """
    is_over = False

    async def once() -> None:
        nonlocal is_over
        if not is_over:
            is_over = True
            await reached()

    if point in _ROWS:
        kind, is_before = _ROWS[point]
        append = Journal.append

        async def watched_append(self: Journal, *records: Any) -> None:
            is_it = any(isinstance(record, kind) for record in records)
            if is_it and is_before:
                await once()
            await append(self, *records)
            if is_it:
                await once()

        patch(Journal, "append", watched_append)
        return
    write = Aggregation.write

    async def watched_write(self: Aggregation, *args: Any) -> None:
        if point is Point.BEFORE_VERSION:
            await once()
        await write(self, *args)
        await once()

    patch(Aggregation, "write", watched_write)
