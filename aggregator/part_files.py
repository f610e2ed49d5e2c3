"""Uploads on disk: chunks at their offset in a sparse part file, then one finished update file.

A file begins with its Report and the bitmap of what is durable (`update_file.py`): bits are written only after the
chunks they stand for were synchronised, so after a power failure no bit names bytes that are not there. Chunks since
the last synchronisation are simply asked for again.

An upload in progress costs its bitmap in memory and no open file. Everything here blocks: run it in the lane DISK.

Not here: which chunks may come now (`uploads.py`), and whether the update is believed (`folding.py`).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aggregator.spare_files import SpareFiles
from aggregator.update_file import UpdateHead, fault_of_update, read_head
from shared.chunking import Bitmap, ChunkLayout
from shared.durable import sync_folder
from shared.errors import InvalidState, PeerError, Reason
from shared.messages import Report

__all__ = ["FileBytes", "PartFiles", "StoredUpdate"]

WINDOW_BYTES = 1 << 20
"""Of an update in memory while it is checked or folded."""
SYNC_CHUNKS = 16
"""Chunks between two synchronisations: at most so many are asked for again after a power failure."""


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    """A finished update: its Report and its bytes, which are read in blocks and never in memory as a whole."""

    report: Report
    data: "FileBytes"


class FileBytes:
    """Bytes of a file that are read when they are asked for, a window at a time.

    Args:
        path: of the file.
        start: offset of the first byte.
        size: how many there are.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._path, self._start, self._size = path, start, size
        self._window = memoryview(bytearray(min(size, WINDOW_BYTES)))
        self._first = self._last = 0  # what is in the window

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return bytes(self[0 : self._size])

    def __getitem__(self, part: slice) -> memoryview:
        """Return a range of the bytes; the view holds until the next one is asked for.

        Raises:
            InvalidState: the file is gone, or has become shorter.
        """
        first, last, _ = part.indices(self._size)
        if first < self._first or last > self._last:
            self._read(first, last)
        return self._window[first - self._first : last - self._first]

    def _read(self, first: int, last: int) -> None:
        if last - first > len(self._window):
            self._window = memoryview(bytearray(last - first))
        window = self._window[: self._size - first]
        try:
            with self._path.open("rb", buffering=0) as file:
                n_read = os.preadv(file.fileno(), [window], self._start + first)
        except FileNotFoundError:
            n_read = 0
        if n_read < last - first:
            raise InvalidState(f"{self._path} is gone, or has become shorter")
        self._first, self._last = first, first + n_read


@dataclass(slots=True)
class _Part:
    """An upload in progress."""

    layout: ChunkLayout
    bitmap: Bitmap
    bitmap_start: int
    body_start: int
    n_unsynced: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)  # of the first n_digested chunks
    n_digested: int = 0


class PartFiles:
    """All updates of a run on disk, by lease.

    Args:
        folder: created when missing; nothing else writes there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, _Part] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._spares = SpareFiles(folder)

    def begin(self, offer: Report) -> Bitmap:
        """Take up an upload.

        The same offer goes on where it stood, also after a restart; another digest, size or chunk size begins anew.

        Args:
            offer: a Report with `size`, `sha256` and `chunk_bytes`.

        Returns:
            A copy of the bitmap: what need not be sent again.
        """
        if offer.size is None or offer.chunk_bytes is None or offer.sha256 is None:
            raise InvalidState(f"the report of {offer.lease} offers nothing")
        path = self._path(offer.lease, "part")
        layout = ChunkLayout(offer.size, offer.chunk_bytes)
        part = self._resumed(path, offer, layout)
        if part is None:
            head = UpdateHead.of(offer, layout)
            part = _Part(layout, Bitmap(len(layout)), head.bitmap_start, head.body_start)
            is_spare = not path.exists() and self._spares.take(path)
            with path.open("r+b" if is_spare else "wb") as file:
                file.write(head.to_bytes())
                file.truncate(head.body_end)
                if is_spare:  # its old bitmap must be gone before a new chunk is there
                    file.write(bytes(head.body_start - file.tell()))
                    file.flush()
                    os.fdatasync(file.fileno())
        self._parts[offer.lease] = part
        return Bitmap(len(layout), part.bitmap.to_bytes())

    def write(self, lease: str, chunks: Iterable[tuple[int, bytes]]) -> int:
        """Write numbered chunks, each at its offset. They are hashed as they come, as long as they come in order.

        Returns:
            How many were missing until now; a chunk that is there is left as it is.

        Raises:
            PeerError: no upload under this lease, no such chunk, or not its length (`chunk`).
        """
        part = self._parts.get(lease)
        if part is None:
            raise PeerError(Reason.CHUNK, "nothing was offered under this lease")
        n_new = 0
        with self._opened(lease) as file:
            for index, data in chunks:
                if index >= len(part.layout) or len(data) != part.layout.length(index):
                    raise PeerError(Reason.CHUNK, f"chunk {index} with {len(data)} bytes of {part.layout}")
                if index in part.bitmap:
                    continue
                os.pwrite(file.fileno(), data, part.body_start + part.layout.start(index))
                part.bitmap.add(index)
                if index == part.n_digested:
                    part.digest.update(data)
                    part.n_digested += 1
                n_new += 1
            part.n_unsynced += n_new
            if part.n_unsynced >= SYNC_CHUNKS:
                _mark_durable(file, part)
        return n_new

    def clear(self, lease: str) -> None:
        """Mark all chunks as missing: the whole did not match its digest."""
        part = self._part(lease)
        part.bitmap.clear()
        part.digest, part.n_digested = hashlib.sha256(), 0
        with self._opened(lease) as file:
            _mark_durable(file, part)

    def digest(self, lease: str) -> str:
        """Return the sha-256 of a complete upload, as 64 hex digits; reads what was not hashed as it came."""
        part = self._part(lease)
        with self._opened(lease) as file:
            file.seek(part.body_start + part.layout.start(part.n_digested))
            while part.n_digested < len(part.layout):
                part.digest.update(file.read(part.layout.length(part.n_digested)))
                part.n_digested += 1
        return part.digest.hexdigest()

    def finish(self, lease: str) -> None:
        """Make a complete upload durable under its final name: synchronise, rename, synchronise the folder.

        Raises:
            InvalidState: a chunk is missing.
        """
        part = self._part(lease)
        if not part.bitmap.is_full:
            raise InvalidState(f"upload {lease} has {part.bitmap.n_set} of {part.bitmap.n} chunks")
        with self._opened(lease) as file:
            os.pwrite(file.fileno(), part.bitmap.to_bytes(), part.bitmap_start)
            os.fsync(file.fileno())
        self._path(lease, "part").rename(self._path(lease, "update"))
        sync_folder(self._folder)
        del self._parts[lease]

    def open(self, lease: str) -> StoredUpdate:
        """Return a finished update.

        Raises:
            InvalidState: there is none, or the file is not one of ours.
        """
        path = self._path(lease, "update")
        try:
            with path.open("rb") as file:
                head = read_head(file)
                if head is None or head.report.lease != lease:
                    raise InvalidState(f"{path} does not begin with the report of its lease")
                n_bytes = max(0, file.seek(0, os.SEEK_END) - head.body_start)
            if n_bytes < head.layout.size:
                raise InvalidState(f"{path} has {n_bytes} bytes of {head.layout.size}")
            return StoredUpdate(head.report, FileBytes(path, head.body_start, head.layout.size))
        except FileNotFoundError as error:
            raise InvalidState(f"there is no finished update of {lease}") from error

    def fault(self, lease: str, *, size: int, sha256: str) -> str | None:
        """Return what is wrong with an accepted update, None when it is as it was accepted; reads all of it."""
        return fault_of_update(self.path(lease), lease=lease, size=size, sha256=sha256)

    def path(self, lease: str) -> Path:
        """Return where a finished update lies, or would."""
        return self._path(lease, "update")

    def finished(self) -> list[str]:
        """Return the leases whose finished update is on disk."""
        return sorted(path.stem for path in self._folder.glob("*.update"))

    def unfinished(self) -> list[str]:
        """Return the leases whose part file is on disk."""
        return sorted(path.stem for path in self._folder.glob("*.part"))

    def delete(self, lease: str) -> None:
        """Whatever is there under a lease is done with; saying so twice does nothing."""
        self._parts.pop(lease, None)
        self._path(lease, "part").unlink(missing_ok=True)
        self._spares.retire(self._path(lease, "update"))

    def give_back(self) -> int:
        """Delete what is only kept to be written over; return how many bytes the disk has again."""
        return self._spares.give_back()

    def _path(self, lease: str, suffix: str) -> Path:
        return self._folder / f"{lease}.{suffix}"

    def _part(self, lease: str) -> _Part:
        try:
            return self._parts[lease]
        except KeyError:
            raise InvalidState(f"no upload under lease {lease}") from None

    @contextmanager
    def _opened(self, lease: str) -> Iterator[BinaryIO]:
        with self._path(lease, "part").open("r+b", buffering=0) as file:
            yield file

    def _resumed(self, path: Path, offer: Report, layout: ChunkLayout) -> _Part | None:
        """Return the part that goes on, or None when it begins anew."""
        try:
            with path.open("rb") as file:
                head = read_head(file)
                if head is None or _identity(head.report) != _identity(offer):
                    return None
                file.seek(head.bitmap_start)
                bits = file.read(-(-len(layout) // 8))
                file.seek(0, os.SEEK_END)
                if file.tell() != head.body_end:
                    return None
        except FileNotFoundError:
            return None
        running = self._parts.get(offer.lease)
        if running is not None:
            return running
        try:
            return _Part(layout, Bitmap(len(layout), bits), head.bitmap_start, head.body_start)
        except InvalidState:  # torn
            return None


def _identity(report: Report) -> tuple[object, ...]:
    return report.lease, report.sha256, report.size, report.chunk_bytes


def _mark_durable(file: BinaryIO, part: _Part) -> None:
    """Synchronise the chunks, then write the bits that say so. The order is the promise."""
    os.fdatasync(file.fileno())
    os.pwrite(file.fileno(), part.bitmap.to_bytes(), part.bitmap_start)
    part.n_unsynced = 0
