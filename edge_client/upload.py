"""Which granted chunk next, how many outstanding, and how large a chunk may be on this link.

A chunk must fit into the time a link stays up, and what is outstanding into half a keepalive: a packet that takes
longer to leave is cut off by the keepalive itself. So an upload starts with one chunk, doubles with every clean
PUBACK, and a link that loses two connections without one PUBACK gets chunks of half the size.

A chunk size that changes makes the aggregator begin an upload anew. So for one update it only ever shrinks; it grows
again with the next update, after one that went through on a single connection.

Pure. Not here: sending (`uploading.py`), asking what became of it (`held_reports.py`).
"""

from collections import deque
from collections.abc import Sequence

from shared.chunking import ChunkLayout, from_ranges

__all__ = ["LEAST_CHUNK_BYTES", "MAX_OUTSTANDING", "LinkPace", "Upload"]

LEAST_CHUNK_BYTES = 4096
MAX_OUTSTANDING = 16
LOSSES_UNTIL_HALVED = 2
"""Connections on which a chunk was tried and none acknowledged."""
NEWEST_WEIGHT = 0.5
"""Of the newest sample in the smoothed rate."""


class LinkPace:
    """What this device has learned about its way up; it outlives connections.

    Args:
        keepalive_s: of the connection, in seconds.
        chunk_bytes: what it had come down to before; None: nothing known.
    """

    def __init__(self, keepalive_s: float, chunk_bytes: int | None = None) -> None:
        self._keepalive_s = keepalive_s
        self._chunk_limit = chunk_bytes
        self._rate: float | None = None  # bytes a second
        self._tried = self._acknowledged = 0
        self._fruitless = 0
        self._saved = chunk_bytes
        self._may_grow = False

    @property
    def chunk_limit(self) -> int | None:
        """Largest chunk that this link is trusted with, in bytes; None: any."""
        return self._chunk_limit

    @property
    def budget_bytes(self) -> float:
        """What may be outstanding: keepalive x rate / 2; no limit while the rate is unknown."""
        return self._keepalive_s * self._rate / 2 if self._rate is not None else float("inf")

    def chunk_bytes(self, fleet_limit: int, payload_limit: int | None, *, is_first_offer: bool) -> int:
        """Return the chunk size for an offer.

        Args:
            fleet_limit: the fleet's largest, in bytes.
            payload_limit: the broker's largest payload, in bytes.
            is_first_offer: of this update; only then may chunks be larger than before.
        """
        if is_first_offer and self._may_grow and self._chunk_limit is not None:
            self._may_grow = False
            self._chunk_limit = 2 * self._chunk_limit if 2 * self._chunk_limit < fleet_limit else None
        size = min(fleet_limit, self._chunk_limit or fleet_limit, payload_limit or fleet_limit)
        if size > max(self.budget_bytes, LEAST_CHUNK_BYTES):
            while size > max(self.budget_bytes, LEAST_CHUNK_BYTES):
                size //= 2
            self._chunk_limit = max(LEAST_CHUNK_BYTES, size)
        return max(LEAST_CHUNK_BYTES, size)

    def went_through(self) -> None:
        """A whole update was acknowledged on one connection."""
        self._may_grow = True

    def tried(self) -> None:
        """Count a chunk that is being sent."""
        self._tried += 1

    def acknowledged(self, n_bytes: int, seconds: float) -> None:
        """Count a PUBACK.

        Args:
            n_bytes: how much was outstanding when the chunk was sent, itself included.
            seconds: from then to its PUBACK.
        """
        self._acknowledged += 1
        self._fruitless = 0
        sample = n_bytes / max(seconds, 1e-3)
        self._rate = sample if self._rate is None else self._rate + NEWEST_WEIGHT * (sample - self._rate)

    def connection_ended(self, chunk_bytes: int) -> bool:
        """Judge a connection; return whether `chunk_limit` has changed, and is to be remembered.

        Args:
            chunk_bytes: as it was used on that connection.
        """
        if self._tried and not self._acknowledged:
            self._fruitless += 1
            self._may_grow = False
            if self._fruitless >= LOSSES_UNTIL_HALVED and chunk_bytes > LEAST_CHUNK_BYTES:
                self._fruitless = 0
                self._chunk_limit = max(LEAST_CHUNK_BYTES, chunk_bytes // 2)
        self._tried = self._acknowledged = 0
        has_changed, self._saved = self._chunk_limit != self._saved, self._chunk_limit
        return has_changed


class Upload:
    """One update on one connection; a new connection begins with a new offer and a new object.

    Args:
        layout: how the encoded update falls into chunks.
        pace: of the link.
    """

    def __init__(self, layout: ChunkLayout, pace: LinkPace) -> None:
        self.layout = layout
        self._pace = pace
        self._granted: deque[int] = deque()
        self._outstanding: dict[int, tuple[float, int]] = {}  # chunk: when, and how many bytes were under way
        self._window = 1
        self._n_acknowledged = 0
        self.is_due = False
        """Whether somebody is about to ask `take`."""

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left to send and every PUBACK is in."""
        return not self._granted and not self._outstanding

    @property
    def fraction(self) -> float:
        """How much has been acknowledged on this connection, in [0, 1]."""
        return min(1.0, self._n_acknowledged / len(self.layout))

    def grant(self, need: Sequence[tuple[int, int]]) -> None:
        """Queue what the aggregator wants, except for chunks whose PUBACK is still out."""
        queued = set(self._granted)
        wanted = from_ranges(need, n=len(self.layout))
        self._granted.extend(i for i in wanted if i not in self._outstanding and i not in queued)

    def stop(self) -> None:
        """Send nothing more."""
        self._granted.clear()

    def next(self, now: float) -> int | None:
        """Return the chunk to send now, which is outstanding from here on; None: wait for a PUBACK or a grant."""
        if not self._granted or len(self._outstanding) >= self._window:
            return None
        under_way = self.layout.chunk_bytes * (len(self._outstanding) + 1)
        if self._outstanding and under_way > self._pace.budget_bytes:
            return None
        index = self._granted.popleft()
        self._outstanding[index] = (now, under_way)
        self._pace.tried()
        return index

    def take(self, now: float) -> list[int]:
        """Return the chunks to send now: none while more than half a window is out, for chunks are read together."""
        indexes: list[int] = []
        if 2 * len(self._outstanding) <= self._window:
            while (index := self.next(now)) is not None:
                indexes.append(index)
        return indexes

    def acknowledged(self, index: int, now: float) -> None:
        """A PUBACK is in: the window doubles."""
        sent_at, under_way = self._outstanding.pop(index)
        self._n_acknowledged += 1
        self._pace.acknowledged(under_way, now - sent_at)
        if self._n_acknowledged == len(self.layout):
            self._pace.went_through()
        self._window = min(MAX_OUTSTANDING, 2 * self._window)
