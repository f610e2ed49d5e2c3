"""Sending granted chunks on one connection.

Not here: which chunk and how many (`upload.py`), when to offer (`held_reports.py`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from broker.transport import Connection
from edge_client.outbox import Outbox
from edge_client.upload import LinkPace, Upload
from shared.blocking import Lane, RunBlocking
from shared.chunking import ChunkLayout
from shared.topics import ChunkTopic, Topics

__all__ = ["Uploads"]


class Uploads:
    """All uploads of one device on one connection; a new connection begins with a new object.

    Args:
        device: who we are.
        connection: where to publish.
        spawn: starts a task of this connection, by name.
        outbox: has the bytes.
        pace: what is known of this link.
        topics: of the fleet.
        run_blocking: for the disk.
        on_acknowledged: called for every PUBACK.
        on_drained: called with the lease when all that was granted is acknowledged.
        on_lost: called with the lease when its bytes cannot be read any more.
    """

    def __init__(
        self,
        device: str,
        connection: Connection,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        *,
        outbox: Outbox,
        pace: LinkPace,
        topics: Topics,
        run_blocking: RunBlocking,
        on_acknowledged: Callable[[], None],
        on_drained: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._device, self._connection, self._spawn = device, connection, spawn
        self._outbox, self._pace, self._topics, self._run_blocking = outbox, pace, topics, run_blocking
        self._on_acknowledged, self._on_drained, self._on_lost = on_acknowledged, on_drained, on_lost
        self._uploads: dict[str, Upload] = {}

    def begin(self, lease: str, layout: ChunkLayout, *, most_bytes: int) -> ChunkLayout:
        """An offer goes out; return the layout that holds on this connection.

        Args:
            lease: of the update.
            layout: for the first offer on this connection.
            most_bytes: largest chunk that the fleet takes now; an upload in larger ones begins anew.
        """
        upload = self._uploads.get(lease)
        if upload is None or upload.layout.chunk_bytes > most_bytes:
            self.stop(lease)
            upload = self._uploads[lease] = Upload(layout, self._pace)
        return upload.layout

    def fraction(self, lease: str) -> float | None:
        """Return how much of an upload is acknowledged, in [0, 1]; None: it is none."""
        upload = self._uploads.get(lease)
        return upload.fraction if upload else None

    def grant(self, lease: str, need: tuple[tuple[int, int], ...]) -> None:
        """Send what the aggregator wants."""
        upload = self._uploads.get(lease)
        if upload is None:  # granted on an offer of the connection before: ours is on its way, and will be answered
            self._on_drained(lease)
            return
        upload.grant(need)
        self._send_more(lease, upload)

    def stop(self, lease: str) -> None:
        """Send nothing more of it."""
        upload = self._uploads.pop(lease, None)
        if upload is not None:
            upload.stop()

    def _send_more(self, lease: str, upload: Upload) -> None:
        """Send what may be sent now, once for all that is said in this turn of the loop."""
        if not upload.is_due:
            upload.is_due = True
            asyncio.get_running_loop().call_soon(self._send_due, lease, upload)

    def _send_due(self, lease: str, upload: Upload) -> None:
        upload.is_due = False
        if self._uploads.get(lease) is not upload:
            return
        if indexes := upload.take(asyncio.get_running_loop().time()):
            self._spawn(self._read(lease, upload, indexes), f"chunks {indexes} of {lease}")
        elif upload.is_drained:
            self._on_drained(lease)

    async def _read(self, lease: str, upload: Upload, indexes: list[int]) -> None:
        layout = upload.layout

        def read() -> list[bytes]:
            return [self._outbox.read(lease, layout.start(i), layout.length(i)) for i in indexes]

        try:
            chunks = await self._run_blocking(Lane.DISK, read)
        except OSError:
            if self._uploads.get(lease) is upload:  # not because its outcome is final
                self.stop(lease)
                self._on_lost(lease)
            return
        for index, chunk in zip(indexes, chunks, strict=True):
            self._spawn(self._send(lease, upload, index, chunk), f"chunk {index} of {lease}")

    async def _send(self, lease: str, upload: Upload, index: int, chunk: bytes) -> None:
        if self._uploads.get(lease) is not upload:
            return
        await self._connection.publish(self._topics.build(ChunkTopic(self._device, lease, index)), chunk)
        upload.acknowledged(index, asyncio.get_running_loop().time())
        self._on_acknowledged()
        self._send_more(lease, upload)
