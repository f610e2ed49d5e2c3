"""One finished report in one file: a checksummed header with the report, then the encoded update.

Not here: which reports there are (`outbox.py`).
"""

import hashlib
from dataclasses import dataclass
from typing import BinaryIO

import msgpack

from shared.errors import PeerError
from shared.messages import Report
from shared.wire import decode, encode

__all__ = ["REPORT", "OutboxEntry", "header_of", "read_report"]

REPORT = ".report"
"""Suffix of such a file; its stem is the lease."""
MAGIC = b"FEDMQOB1"
_PREFIX_BYTES = len(MAGIC) + 4 + 32
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """One report.

    Args:
        report: of an update, as an offer; how it travels is decided when it is sent.
        round: which round asked for it.
        version: of the model it started from.
        stored_at: wall-clock seconds; for the quota alone.
        n_bytes: of the encoded update.
        start: offset of the update in its file.
    """

    report: Report
    round: int
    version: int
    stored_at: float
    n_bytes: int
    start: int

    @property
    def lease(self) -> str:
        """The name of the entry."""
        return self.report.lease


def header_of(report: Report, *, round: int, version: int, stored_at: float, n_bytes: int) -> tuple[OutboxEntry, bytes]:
    """Return an entry, and what stands in its file before the update.

    Args:
        report: its offer.
        round: which round asked for it.
        version: of the model it started from.
        stored_at: wall-clock seconds.
        n_bytes: of the encoded update.
    """
    head = {"report": encode(report), "round": round, "version": version, "stored_at": stored_at}
    packed: bytes = msgpack.packb(head)
    start = _PREFIX_BYTES + len(packed)
    entry = OutboxEntry(report=report, round=round, version=version, stored_at=stored_at, n_bytes=n_bytes, start=start)
    return entry, MAGIC + len(packed).to_bytes(4, "big") + hashlib.sha256(packed).digest() + packed


def read_report(file: BinaryIO, lease: str) -> OutboxEntry:
    """Read and check one file, the update included.

    Raises:
        ValueError: it is damaged, or is not of that lease.
        OSError: it cannot be read.
    """
    prefix = file.read(_PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES:
        raise ValueError(f"it ends after {len(prefix)} bytes, within its header")
    if not prefix.startswith(MAGIC):
        raise ValueError("it does not begin like an outbox entry")
    n_header = int.from_bytes(prefix[len(MAGIC) : len(MAGIC) + 4], "big")
    header = file.read(n_header)
    if len(header) < n_header:
        raise ValueError(f"it ends after {len(prefix) + len(header)} bytes, within its header")
    if hashlib.sha256(header).digest() != prefix[-32:]:
        raise ValueError("its header has another checksum")
    head = msgpack.unpackb(header)
    try:
        report = decode(Report, head["report"], max_data_bytes=0)
    except PeerError as error:
        raise ValueError(f"its report is none: {error}") from error
    hasher, n_bytes = hashlib.sha256(), 0
    while block := file.read(_BLOCK_BYTES):
        hasher.update(block)
        n_bytes += len(block)
    if report.lease != lease:
        raise ValueError(f"it holds lease {report.lease}")
    if missing := (report.size or 0) - n_bytes:
        raise ValueError(f"its update is {abs(missing)} bytes {'short' if missing > 0 else 'too long'}")
    if report.sha256 is not None and hasher.hexdigest() != report.sha256:
        raise ValueError("its update has another checksum")
    return OutboxEntry(
        report=report,
        round=head["round"],
        version=head["version"],
        stored_at=head["stored_at"],
        n_bytes=n_bytes,
        start=_PREFIX_BYTES + len(header),
    )
