"""The file of an update: how it begins, where its bytes lie, and what stands behind them once it counts.

    magic, length of the Report, Report, bitmap, zeros up to a page | the update | copy of its rows

A file begins with its Report, so that a whole update without its ACCEPT row can be admitted again. Once the update is
accepted, a copy of its LEASE and ACCEPT rows follows it: rows that the journal lost come back from there. The copy is
not synchronised on its own; it is there for a damaged journal, never to decide anything while the journal is whole.

Not here: how chunks are written (`part_files.py`).
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shared.chunking import ChunkLayout
from shared.errors import PeerError
from shared.messages import Report
from shared.wire import decode, encode

__all__ = ["RowCopies", "UpdateHead", "fault_of_update", "read_head"]

PAGE = 4096
_MAGIC = b"FedMQup1"
_HEAD = struct.Struct("<8sI")
_COPY_MAGIC = b"FedMQrow"
_COPY = struct.Struct("<8sI16s")
_MAX_COPY_BYTES = 64 * 1024
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class UpdateHead:
    """How a file begins.

    Args:
        report: the offer, with `size`, `sha256` and `chunk_bytes`.
        layout: of its chunks.
        bitmap_start: offset of the bitmap.
        body_start: offset of the update, a whole number of pages.
    """

    report: Report
    layout: ChunkLayout
    bitmap_start: int
    body_start: int

    @classmethod
    def of(cls, report: Report, layout: ChunkLayout) -> "UpdateHead":
        """Return the head of a new file."""
        bitmap_start = _HEAD.size + len(encode(report))
        end = bitmap_start + -(-len(layout) // 8)
        return cls(report, layout, bitmap_start, -(-end // PAGE) * PAGE)

    @property
    def body_end(self) -> int:
        """Offset behind the update."""
        return self.body_start + self.layout.size

    def to_bytes(self) -> bytes:
        """Return what the file begins with, up to the bitmap."""
        packed = encode(self.report)
        return _HEAD.pack(_MAGIC, len(packed)) + packed


def read_head(file: BinaryIO) -> UpdateHead | None:
    """Return how a file begins, None when it is not one of ours; leaves the position behind the Report."""
    head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        return None
    magic, length = _HEAD.unpack(head)
    if magic != _MAGIC or length > Report.max_message_bytes:
        return None
    try:
        report = decode(Report, file.read(length))
    except PeerError:
        return None
    if report.size is None or report.sha256 is None or report.chunk_bytes is None:
        return None
    return UpdateHead.of(report, ChunkLayout(report.size, report.chunk_bytes))


def fault_of_update(path: Path, *, lease: str, size: int, sha256: str) -> str | None:
    """Return what is wrong with the file of an accepted update, None when it is whole. Reads all of it.

    Args:
        path: of the file.
        lease: it was accepted under.
        size: in bytes, as the ACCEPT row has it.
        sha256: of the update, 64 hex digits, as the ACCEPT row has it.
    """
    try:
        with path.open("rb") as file:
            head = read_head(file)
            if head is None or (head.report.lease, head.report.size) != (lease, size):
                return "does not begin with the report of its lease"
            file.seek(head.body_start)
            digest, left = hashlib.sha256(), size
            while left and (block := file.read(min(_BLOCK, left))):
                digest.update(block)
                left -= len(block)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if left:
        return f"is {left} bytes short"
    return None if digest.hexdigest() == sha256 else "is damaged: its sha-256 is not that of the update"


class RowCopies:
    """The copies of rows in a folder of update files. Blocks: for the journal's lane.

    Args:
        folder: where `part_files.PartFiles` keeps finished updates.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, lease: str, copy: bytes) -> None:
        """Write a copy behind an update, over the one before.

        Raises:
            OSError: there is no such file, or the disk takes no more.
        """
        with (self._folder / f"{lease}.update").open("r+b", buffering=0) as file:
            head = read_head(file)
            if head is None:
                raise OSError(f"{file.name} does not begin with a report")
            head_of_copy = _COPY.pack(_COPY_MAGIC, len(copy), _digest(lease, copy))
            os.pwrite(file.fileno(), head_of_copy + copy, head.body_end)

    def kept(self) -> Iterator[bytes]:
        """Yield every copy that is whole, in no order that means anything."""
        for path in sorted(self._folder.glob("*.update")):
            copy = self._kept_in(path)
            if copy is not None:
                yield copy

    def _kept_in(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                head = read_head(file)
                if head is None:
                    return None
                file.seek(head.body_end)
                found = file.read(_COPY.size + _MAX_COPY_BYTES)
        except OSError:
            return None
        if len(found) < _COPY.size:
            return None
        magic, length, digest = _COPY.unpack_from(found)
        copy = found[_COPY.size : _COPY.size + length]
        is_whole = magic == _COPY_MAGIC and len(copy) == length and _digest(path.stem, copy) == digest
        return copy if is_whole else None


def _digest(lease: str, copy: bytes) -> bytes:
    """Return what makes a copy that of one lease: files are written over, and may hold that of another."""
    return hashlib.sha256(lease.encode() + copy).digest()[:16]
