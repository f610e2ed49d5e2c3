"""Finished reports without a final outcome, on disk: they survive a reboot, and go when the outcome is final.

A file that is damaged is named, set aside and never offered. When the disk takes no more, a report is kept in memory,
and the log says so: the federation gets it all the same, unless the power goes.

Not here: the bytes of a file (`report_files.py`), when a report is offered (`held_reports.py`), what follows from an
outcome (`local_state.py`), the command for people (`outbox_command.py`).
"""

import time
from collections.abc import Callable

import structlog

from edge_client.files import Files
from edge_client.final_leases import FINALS, LEASE, FinalLeases
from edge_client.report_files import REPORT, OutboxEntry, header_of, read_report
from edge_client.state_folder import DAMAGED, TEMPORARY, damaged_name, remedy
from shared.errors import ConfigError, InvalidState
from shared.messages import Report

__all__ = ["Outbox"]


class Outbox:
    """The reports of one device. Every method but `entry` and `entries` touches the disk.

    Args:
        files: of the outbox; its folder is made where it does not exist.
        quota_bytes: updates kept; the oldest goes first, the newest never.
        keep_s: seconds an update is kept.
        wall_clock: seconds since 1970; it may be set at any time, so it tells ages across a reboot only.
        clock: monotonic seconds, for ages since then.
    """

    def __init__(
        self,
        files: Files,
        *,
        quota_bytes: int,
        keep_s: float,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._quota_bytes, self._keep_s = files, quota_bytes, keep_s
        self._wall_clock, self._clock = wall_clock, clock
        self._entries: dict[str, OutboxEntry] = {}
        self._born: dict[str, float] = {}  # by the monotonic clock
        self._in_memory: dict[str, bytes] = {}
        self._finals = FinalLeases()
        self._log = structlog.get_logger()

    @property
    def entries(self) -> list[OutboxEntry]:
        """All reports, oldest first."""
        return sorted(self._entries.values(), key=lambda entry: (self._born[entry.lease], entry.stored_at))

    @property
    def finals(self) -> list[str]:
        """The last final leases, oldest first."""
        return list(self._finals)

    @property
    def damaged(self) -> list[str]:
        """Leases whose reports are set aside. Touches the disk."""
        stems = [name.removesuffix(DAMAGED) for name in self._files.names(DAMAGED)]
        return [stem for stem in stems if LEASE.fullmatch(stem)]

    def entry(self, lease: str) -> OutboxEntry | None:
        """Return a report; None: it is not here (any more)."""
        return self._entries.get(lease)

    def load(self) -> None:
        """Read what is there. Damaged entries are set aside and named; what is over the quota goes.

        An entry that is too old is offered once more before it goes: whether the clock is right, nobody knows yet.

        Raises:
            ConfigError: the folder cannot be used.
        """
        try:
            self._files.make()
            self._load_finals()
            for leftover in self._files.names(TEMPORARY):
                self._files.delete(leftover)
            for lease in self.damaged:
                self._name(lease, "it was set aside before")
            for name in self._files.names(REPORT):
                self._load(name)
        except OSError as error:
            raise ConfigError(
                f"cannot be used: {error.strerror}", where=str(self._files.path), hint="see who may write to it"
            ) from error
        self._drop_oldest(keep="", is_old=lambda entry: False)

    def put(self, report: Report, *, round: int, version: int, payload: bytes) -> list[str]:
        """Keep a report. Once this returns it survives a power cut, unless the log says otherwise.

        Returns:
            Leases of older reports that had to go.
        """
        if report.lease in self._entries:
            raise InvalidState(f"lease {report.lease} is in the outbox already")
        stored_at = self._wall_clock()
        entry, header = header_of(report, round=round, version=version, stored_at=stored_at, n_bytes=len(payload))
        self._entries[report.lease], self._born[report.lease] = entry, self._clock()
        dropped = self._drop_oldest(keep=report.lease, is_old=self._is_old)
        try:
            self._files.write_durably(_name_of(report.lease), header, payload)
        except OSError as error:
            self._in_memory[report.lease] = payload
            self._log.error(
                "outbox_not_durable",
                lease=report.lease,
                cause=str(error),
                folder=str(self._files.path),
                so="it is kept in memory and offered; it is lost if this process ends before its receipt",
            )
        return dropped

    def expire(self) -> list[str]:
        """Delete what has been kept long enough; to be called now and then.

        Returns:
            The leases of reports that had to go.
        """
        return self._drop_oldest(keep="", is_old=self._is_old)

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
        with self._files.open(_name_of(lease)) as file:
            file.seek(entry.start + offset)
            return file.read(length)

    def conclude(self, lease: str) -> None:
        """A lease is final: remember it, then delete its report.

        Neither waits for the folder to be synchronised: a power cut may bring the report back, which is then offered
        once more, and answered as before.
        """
        if self._finals.add(lease):
            try:
                self._files.write_whole(FINALS, "\n".join(self._finals).encode())
            except OSError as error:
                self._log.error("final_lease_not_kept", lease=lease, cause=str(error), folder=str(self._files.path))
        self._delete(lease)

    def drop(self, lease: str) -> None:
        """Set a report aside that cannot be read any more."""
        self._entries.pop(lease, None)
        self._in_memory.pop(lease, None)
        try:
            if self._files.has(_name_of(lease)):
                self._set_aside(_name_of(lease))
                self._name(lease, "it cannot be read")
        except OSError as error:
            self._log.error("outbox_entry_stays", lease=lease, cause=str(error), folder=str(self._files.path))

    def _load_finals(self) -> None:
        if not self._files.has(FINALS):
            return
        try:
            self._finals = FinalLeases.parsed(self._files.read(FINALS))
        except ValueError as error:
            self._log.error(
                "final_leases_damaged",
                cause=str(error),
                kept_as=str(self._files.path / self._set_aside(FINALS)),
                so="an assignment that was final may be worked on once more; it is counted once all the same",
                remedy=remedy(self._files.path.parent, FINALS),
            )

    def _load(self, name: str) -> None:
        lease = name.removesuffix(REPORT)
        try:
            with self._files.open(name) as file:
                entry = read_report(file, lease)
        except (OSError, ValueError) as error:
            self._set_aside(name)
            self._name(lease, str(error))
            return
        if entry.lease in self._finals:  # the power went between the outcome and the deletion
            self._files.delete(name)
            return
        self._entries[entry.lease] = entry
        self._born[entry.lease] = self._clock() - max(0.0, self._wall_clock() - entry.stored_at)

    def _name(self, lease: str, cause: str) -> None:
        device = self._files.path.parent
        self._log.error("outbox_entry_damaged", lease=lease, cause=cause, remedy=remedy(device, lease))

    def _is_old(self, entry: OutboxEntry) -> bool:
        return self._clock() - self._born[entry.lease] > self._keep_s

    def _drop_oldest(self, *, keep: str, is_old: Callable[[OutboxEntry], bool]) -> list[str]:
        dropped: list[str] = []
        oldest_first = self.entries
        total = sum(entry.n_bytes for entry in oldest_first)
        for entry in oldest_first:
            is_too_old = is_old(entry)
            if entry.lease == keep or not (is_too_old or total > self._quota_bytes):
                continue
            total -= entry.n_bytes
            self._delete(entry.lease)
            dropped.append(entry.lease)
            cause = "too old" if is_too_old else "over the quota"
            self._log.warning("outbox_entry_dropped", lease=entry.lease, run=entry.report.run, cause=cause)
        return dropped

    def _delete(self, lease: str) -> None:
        if self._entries.pop(lease, None) is None or self._in_memory.pop(lease, None) is not None:
            return
        try:
            self._files.delete(_name_of(lease))
        except OSError as error:  # the next start tries again
            self._log.error("outbox_entry_stays", lease=lease, cause=str(error), folder=str(self._files.path))

    def _set_aside(self, name: str) -> str:
        """Take a damaged file out of use, and return what it is called now."""
        self._files.rename(name, damaged_name(name))
        return damaged_name(name)


def _name_of(lease: str) -> str:
    return f"{lease}{REPORT}"
