"""Grants: which chunks of which upload may come now.

What is granted and has not arrived stays under a byte and a chunk budget over all uploads: that bounds the broker's
queue and the aggregator's memory. A slow device holds a few chunks, not a slot. Offers are served in order of arrival;
an upload that stalls is granted again at the end of the queue.

Sans-IO: `grants(now)` says what to grant, `deadline` when to ask again.
"""

import math
from dataclasses import dataclass, field
from itertools import islice

from shared.chunking import Bitmap, ChunkLayout, from_ranges, to_ranges
from shared.errors import PeerError, Reason
from shared.messages import MAX_GRANT_RANGES

__all__ = ["Grant", "Upload", "Uploads"]

FIRST_GRANT = 4
LARGEST_GRANT = 64
FAST_GRANT_S = 2.0
"""A grant that arrives within this time doubles the next."""
FIRST_CHUNK_S = 30.0
SHORTEST_STALL_S = 2.0
STALL_GAPS = 4
"""An upload has stalled after this many times its slowest gap between chunks."""
LONGEST_GAP_S = 30.0
MAX_OFFERS = 8
NEWS_EVERY_S = 0.25
"""Between two words about one upload to those who only want to know that it moves."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Chunks that a device may send now, as closed ranges."""

    lease: str
    ranges: list[tuple[int, int]]


@dataclass(slots=True)
class Upload:
    """One update on its way up."""

    lease: str
    sha256: str
    layout: ChunkLayout
    arrived: Bitmap
    granted: set[int] = field(default_factory=set)
    last_grant: int = 0  # chunks in the newest grant
    next_grant: int = FIRST_GRANT
    granted_at: float = 0.0
    moved_at: float = 0.0
    has_chunk: bool = False  # since the last offer
    slowest_gap_s: float = 0.0
    n_offers: int = 1
    told_at: float = -math.inf

    @property
    def stalls_at(self) -> float:
        """When what was granted is given up on."""
        if not self.has_chunk:
            return self.granted_at + FIRST_CHUNK_S
        return max(self.moved_at, self.granted_at) + max(SHORTEST_STALL_S, STALL_GAPS * self.slowest_gap_s)

    @property
    def wants_grant(self) -> bool:
        """Whether half of the last grant has come and there is more to ask for."""
        return len(self.granted) * 2 <= self.last_grant and self.arrived.n_set + len(self.granted) < self.arrived.n


class Uploads:
    """Every upload under way, in the order in which they are served.

    Args:
        max_bytes: granted and not arrived, over all uploads.
        max_chunks: the same, in chunks.
    """

    def __init__(self, *, max_bytes: int, max_chunks: int) -> None:
        self.max_bytes, self._max_chunks = max_bytes, max_chunks
        self._uploads: dict[str, Upload] = {}  # insertion order is the queue
        self.granted_bytes = 0
        self.granted_chunks = 0

    def get(self, lease: str) -> Upload | None:
        """Return an upload, None if nothing was offered under this lease."""
        return self._uploads.get(lease)

    def offer(self, lease: str, sha256: str, layout: ChunkLayout, have: Bitmap | None = None) -> bool:
        """Take an offer: a first one, the same again, or another content for the same lease.

        The same again keeps its place and what has arrived, and voids what was granted.

        Args:
            lease: already checked.
            sha256: of the whole.
            layout: size and chunk size as offered.
            have: what a part file already holds, for a first offer after a restart.

        Returns:
            Whether the content is new, so that a part file has to be begun anew.

        Raises:
            PeerError: too many different offers (`offers`).
        """
        upload = self._uploads.get(lease)
        if upload is None:
            self._uploads[lease] = Upload(lease, sha256, layout, have or Bitmap(len(layout)))
            return have is None
        self._void(upload)
        if (upload.sha256, upload.layout) == (sha256, layout):
            return False
        if upload.n_offers >= MAX_OFFERS:
            raise PeerError(Reason.OFFERS, f"{MAX_OFFERS + 1} different offers under one lease")
        upload.sha256, upload.layout, upload.arrived = sha256, layout, Bitmap(len(layout))
        upload.n_offers += 1
        return True

    def is_granted(self, lease: str, index: int) -> bool:
        """Return whether a chunk was asked for, and has not arrived."""
        upload = self._uploads.get(lease)
        return upload is not None and index in upload.granted

    def arrive(self, lease: str, index: int, n_bytes: int, now: float) -> bool:
        """Take note of a chunk.

        Returns:
            Whether it is wanted: False when it is already there.

        Raises:
            PeerError: nothing was offered, there is no such chunk, or its length is wrong (`chunk`).
        """
        upload = self._uploads.get(lease)
        if upload is None:
            raise PeerError(Reason.CHUNK, "nothing was offered under this lease")
        if index >= len(upload.layout):
            raise PeerError(Reason.CHUNK, f"chunk {index} of {len(upload.layout)}")
        if n_bytes != upload.layout.length(index):
            raise PeerError(Reason.CHUNK, f"chunk {index} has {n_bytes} bytes, expected {upload.layout.length(index)}")
        if index in upload.granted:
            upload.granted.remove(index)
            self.granted_chunks -= 1
            self.granted_bytes -= n_bytes
        if not upload.arrived.add(index):
            return False
        if upload.has_chunk:
            gap = min(LONGEST_GAP_S, now - max(upload.moved_at, upload.granted_at))
            upload.slowest_gap_s = max(upload.slowest_gap_s, gap)
        upload.has_chunk, upload.moved_at = True, now
        return True

    def is_news(self, lease: str, now: float) -> bool:
        """Return whether it is time to say again that an upload moves; then it counts as said."""
        upload = self._uploads.get(lease)
        if upload is None or now - upload.told_at < NEWS_EVERY_S:
            return False
        upload.told_at = now
        return True

    def again(self, lease: str) -> None:
        """The whole did not match its digest: everything is asked for once more."""
        upload = self._uploads[lease]
        self._void(upload)
        upload.arrived.clear()

    def release(self, lease: str) -> None:
        """Nothing more is wanted under this lease."""
        upload = self._uploads.pop(lease, None)
        if upload is not None:
            self._void(upload)

    def grants(self, now: float, *, unwritten_bytes: int = 0) -> list[Grant]:
        """Return what to grant now, in the order of the queue, within the budget.

        Args:
            now: seconds.
            unwritten_bytes: what has arrived and waits for the disk; it is in memory, so it counts against the budget.
        """
        for upload in [u for u in self._uploads.values() if u.granted and now >= u.stalls_at]:
            self._void(upload)
            self._uploads[upload.lease] = self._uploads.pop(upload.lease)  # to the end of the queue
        grants: list[Grant] = []
        for upload in self._uploads.values():
            if not upload.wants_grant:
                continue
            free = min(
                self._max_chunks - self.granted_chunks,
                (self.max_bytes - self.granted_bytes - unwritten_bytes) // upload.layout.chunk_bytes,
            )
            n_wanted = upload.arrived.n - upload.arrived.n_set - len(upload.granted)
            # not in crumbs while more is on its way: a grant costs a message
            if free < (min(FIRST_GRANT, n_wanted) if self.granted_chunks else 1):
                break
            if (grant := self._grant(upload, free, now)) is not None:
                grants.append(grant)
        return grants

    @property
    def deadline(self) -> float | None:
        """When `grants` is to be asked again although nothing arrived; None: nothing is granted."""
        return min((upload.stalls_at for upload in self._uploads.values() if upload.granted), default=None)

    def _grant(self, upload: Upload, free: int, now: float) -> Grant | None:
        if upload.last_grant and now - upload.granted_at <= FAST_GRANT_S and upload.has_chunk:
            upload.next_grant = min(LARGEST_GRANT, 2 * upload.next_grant)
        wanted = (index for index in upload.arrived.missing() if index not in upload.granted)
        ranges = to_ranges(islice(wanted, min(free, upload.next_grant)), at_most=MAX_GRANT_RANGES)
        indexes = from_ranges(ranges, n=len(upload.layout))
        if not indexes:
            return None
        upload.granted.update(indexes)
        self.granted_chunks += len(indexes)
        self.granted_bytes += sum(map(upload.layout.length, indexes))
        upload.last_grant, upload.granted_at = len(indexes), now
        return Grant(upload.lease, ranges)

    def _void(self, upload: Upload) -> None:
        self.granted_chunks -= len(upload.granted)
        self.granted_bytes -= sum(map(upload.layout.length, upload.granted))
        upload.granted.clear()
        upload.last_grant, upload.next_grant, upload.has_chunk = 0, FIRST_GRANT, False
