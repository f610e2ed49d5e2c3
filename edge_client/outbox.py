"""Finished reports without a final outcome, on disk: they survive a reboot, and go when the outcome is final.

One file a lease: a checksummed header with the report, then the encoded update. A file that is damaged is named, set
aside and never offered. When the disk takes no more, a report is kept in memory, and the log says so: the federation
gets it all the same, unless the power goes.

Not here: when a report is offered (`held_reports.py`), what follows from an outcome (`local_state.py`).
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgpack
import structlog

from edge_client.participant_machine import KEPT_FINALS
from edge_client.state_folder import TEMPORARY, sync_folder, write_durably
from shared.errors import InvalidState, PeerError
from shared.messages import Report
from shared.wire import decode, encode

__all__ = ["Outbox", "OutboxEntry"]

MAGIC = b"FEDMQOB1"
_PREFIX_BYTES = len(MAGIC) + 4 + 32
_BLOCK_BYTES = 1 << 20
_SUFFIX = ".report"


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


class Outbox:
    """The reports of one device. Every method but `entry` and `entries` touches the disk.

    Args:
        folder: of the outbox; made where it does not exist.
        quota_bytes: updates kept; the oldest goes first, the newest never.
        keep_s: seconds an update is kept.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self, folder: Path, *, quota_bytes: int, keep_s: float, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._quota_bytes, self._keep_s, self._wall_clock = folder, quota_bytes, keep_s, wall_clock
        self._entries: dict[str, OutboxEntry] = {}
        self._in_memory: dict[str, bytes] = {}
        self._finals: deque[str] = deque(maxlen=KEPT_FINALS)
        self._log = structlog.get_logger()

    @property
    def entries(self) -> list[OutboxEntry]:
        """All reports, oldest first."""
        return sorted(self._entries.values(), key=lambda entry: entry.stored_at)

    @property
    def finals(self) -> list[str]:
        """The last final leases, oldest first."""
        return list(self._finals)

    def entry(self, lease: str) -> OutboxEntry | None:
        """Return a report; None: it is not here (any more)."""
        return self._entries.get(lease)

    def load(self) -> None:
        """Read what is there. Damaged entries are set aside, old ones deleted; both are logged."""
        self._folder.mkdir(parents=True, exist_ok=True)
        finals = self._finals_path.read_text().split() if self._finals_path.exists() else []
        self._finals.extend(lease for lease in finals if len(lease) == 32)
        for leftover in self._folder.glob(f"*{TEMPORARY}"):
            leftover.unlink()
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                entry = _read(path)
            except (OSError, ValueError, PeerError) as error:
                aside = path.with_suffix(".damaged")
                path.replace(aside)
                self._log.error("outbox_entry_damaged", lease=path.stem, cause=str(error), kept_as=str(aside))
                continue
            if entry.lease in self._finals:  # the power went between the outcome and the deletion
                path.unlink()
            else:
                self._entries[entry.lease] = entry
        self._make_room(keep="")

    def put(self, report: Report, *, round: int, version: int, payload: bytes) -> list[str]:
        """Keep a report. Once this returns it survives a power cut, unless the log says otherwise.

        Returns:
            Leases of older reports that had to go.
        """
        if report.lease in self._entries:
            raise InvalidState(f"lease {report.lease} is in the outbox already")
        now = self._wall_clock()
        head = {"report": encode(report), "round": round, "version": version, "stored_at": now}
        header: bytes = msgpack.packb(head)
        entry = OutboxEntry(
            report=report,
            round=round,
            version=version,
            stored_at=now,
            n_bytes=len(payload),
            start=_PREFIX_BYTES + len(header),
        )
        self._entries[report.lease] = entry
        dropped = self._make_room(keep=report.lease)
        prefix = MAGIC + len(header).to_bytes(4, "big") + hashlib.sha256(header).digest()
        try:
            write_durably(self._path(report.lease), prefix, header, payload)
        except OSError as error:
            self._in_memory[report.lease] = payload
            self._log.error("outbox_not_durable", lease=report.lease, cause=str(error), folder=str(self._folder))
        return dropped

    def read(self, lease: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return a piece of an encoded update.

        Raises:
            OSError: the file is gone or cannot be read.
        """
        entry = self._entries.get(lease)
        if entry is None:
            raise FileNotFoundError(f"lease {lease} is not in the outbox")
        length = entry.n_bytes - offset if length is None else length
        if lease in self._in_memory:
            return self._in_memory[lease][offset : offset + length]
        with self._path(lease).open("rb") as file:
            file.seek(entry.start + offset)
            return file.read(length)

    def conclude(self, lease: str) -> None:
        """A lease is final: remember it, then delete its report."""
        if lease not in self._finals:
            self._finals.append(lease)
            try:
                write_durably(self._finals_path, "\n".join(self._finals).encode())
            except OSError as error:
                self._log.error("outbox_not_durable", lease=lease, cause=str(error), folder=str(self._folder))
        self._delete(lease)

    def drop(self, lease: str) -> None:
        """Set a report aside that cannot be read any more."""
        self._entries.pop(lease, None)
        self._in_memory.pop(lease, None)
        path = self._path(lease)
        try:
            if path.exists():
                path.replace(path.with_suffix(".damaged"))
        except OSError as error:
            self._log.error("outbox_entry_stays", lease=lease, cause=str(error), folder=str(self._folder))

    def _make_room(self, *, keep: str) -> list[str]:
        dropped: list[str] = []
        oldest_first = self.entries
        total = sum(entry.n_bytes for entry in oldest_first)
        for entry in oldest_first:
            is_old = self._wall_clock() - entry.stored_at > self._keep_s
            if entry.lease == keep or not (is_old or total > self._quota_bytes):
                continue
            total -= entry.n_bytes
            self._delete(entry.lease)
            dropped.append(entry.lease)
            cause = "too old" if is_old else "over the quota"
            self._log.warning("outbox_entry_dropped", lease=entry.lease, run=entry.report.run, cause=cause)
        return dropped

    def _delete(self, lease: str) -> None:
        if self._entries.pop(lease, None) is None or self._in_memory.pop(lease, None) is not None:
            return
        try:
            self._path(lease).unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:  # the next start tries again
            self._log.error("outbox_entry_stays", lease=lease, cause=str(error), folder=str(self._folder))

    def _path(self, lease: str) -> Path:
        return self._folder / f"{lease}{_SUFFIX}"

    @property
    def _finals_path(self) -> Path:
        return self._folder / "final_leases"


def _read(path: Path) -> OutboxEntry:
    """Read and check one file.

    Raises:
        ValueError: it is damaged.
        PeerError: its report is none.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX_BYTES)
        if len(prefix) < _PREFIX_BYTES or not prefix.startswith(MAGIC):
            raise ValueError("it does not begin like an outbox entry")
        header = file.read(int.from_bytes(prefix[len(MAGIC) : len(MAGIC) + 4], "big"))
        if hashlib.sha256(header).digest() != prefix[-32:]:
            raise ValueError("its header has another checksum")
        head = msgpack.unpackb(header)
        report = decode(Report, head["report"], max_data_bytes=0)
        n_bytes, digest = _measure(iter(lambda: file.read(_BLOCK_BYTES), b""))
    if report.lease != path.stem:
        raise ValueError(f"it holds lease {report.lease}")
    if n_bytes != (report.size or 0) or (report.sha256 is not None and digest != report.sha256):
        raise ValueError("its update has another checksum")
    return OutboxEntry(
        report=report,
        round=head["round"],
        version=head["version"],
        stored_at=head["stored_at"],
        n_bytes=n_bytes,
        start=_PREFIX_BYTES + len(header),
    )


def _measure(blocks: Iterable[bytes]) -> tuple[int, str]:
    hasher, n_bytes = hashlib.sha256(), 0
    for block in blocks:
        hasher.update(block)
        n_bytes += len(block)
    return n_bytes, hasher.hexdigest()
