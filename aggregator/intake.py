"""An update on its way in: from an offer and its chunks to one verdict for the round machine.

Bytes go straight to disk; digest, decoding and norm run off the event loop, one update after the other. What comes out
is `Verified` or `Refused`, never an exception: what a device sends cannot stop the aggregator.

Not here: whether the device may (`admission.py`), which chunks may come (`uploads.py`), whether it counts
(`reports.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from aggregator.events import DiskLow, Event, Refused, Verified
from aggregator.folding import verify
from aggregator.part_files import FileBytes, PartFiles
from aggregator.uploads import Uploads
from shared.blocking import Lane, RunBlocking
from shared.chunking import ChunkLayout, sha256_hex
from shared.codecs import codec_named
from shared.errors import InvalidState, PeerError, Reason
from shared.initial_loss import INITIAL_LOSS
from shared.messages import Report
from shared.parameters import ParameterSpec

__all__ = ["Intake"]

log = structlog.get_logger(__name__)

MISMATCHES = 2
"""The second time that the whole does not match its digest, the update is rejected."""

_Step = Callable[[], Awaitable[None]]


class Intake:
    """Everything between a believed Report and the machine's decision.

    Args:
        uploads: the grants.
        part_files: where chunks go.
        run_blocking: the seam to threads.
        spec: the run's own.
        max_norm: an update with a larger 2-norm is refused; None: none is.
        tell: takes events for the round machine.
    """

    def __init__(
        self,
        uploads: Uploads,
        part_files: PartFiles,
        run_blocking: RunBlocking,
        *,
        spec: ParameterSpec,
        max_norm: float | None,
        tell: Callable[[Event], None],
    ) -> None:
        self._uploads, self._part_files, self._run_blocking = uploads, part_files, run_blocking
        self._spec, self._max_norm, self._tell = spec, max_norm, tell
        self._reports: dict[str, Report] = {}
        self._mismatches: dict[str, int] = {}
        self._under_check: set[str] = set()  # whole, and not yet decided
        self._to_begin: set[str] = set()  # offered, and not yet taken up
        self._unwritten: dict[str, list[tuple[int, bytes]]] = {}  # arrived, and wait for the disk
        # bounded by the grants and by the open leases: a lease waits once, however often it is offered
        self._disk: asyncio.Queue[tuple[str, _Step]] = asyncio.Queue()
        self._checks: asyncio.Queue[tuple[str, _Step]] = asyncio.Queue()
        self.unwritten_bytes = 0
        """Of chunks that have arrived and wait for the disk."""
        self.changed = asyncio.Event()
        """Set whenever there may be something to grant."""

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work_off(self._disk), name="intake-disk")
            group.create_task(self._work_off(self._checks), name="intake-checks")

    def offered(self, report: Report) -> None:
        """Keep a believed report; whether it is taken up, the machine says (`take`)."""
        self._reports[report.lease] = report

    def take(self, lease: str) -> None:
        """Grant what was offered last under a lease, or check what came inline."""
        report = self._reports.get(lease)
        if report is None or lease in self._under_check:
            return
        if report.data is not None:
            self._under_check.add(lease)
            self._checks.put_nowait((lease, partial(self._check_inline, report, report.data)))
        elif lease not in self._to_begin:
            self._to_begin.add(lease)
            self._disk.put_nowait((lease, partial(self._begin, lease)))

    def take_finished(self, lease: str) -> None:
        """Check a whole update that a restart found on disk without a decision."""
        self._under_check.add(lease)
        self._checks.put_nowait((lease, partial(self._check_file, lease)))

    def chunk(self, lease: str, index: int, payload: bytes, now: float) -> bool:
        """Take a chunk. One that nobody asked for, such as one that comes late, is kept while there is memory for it.

        Returns:
            Whether the round machine should hear of it, which is not for every chunk.

        Raises:
            PeerError: it is not wanted (`chunk`).
        """
        if not self._uploads.is_granted(lease, index):
            spoken_for = self._uploads.granted_bytes + self.unwritten_bytes
            if spoken_for + len(payload) > self._uploads.max_bytes:
                raise PeerError(Reason.CHUNK, "nobody asked for it, and the memory of uploads is spoken for")
        if self._uploads.arrive(lease, index, len(payload), now):
            self.unwritten_bytes += len(payload)
            waiting = self._unwritten.get(lease)
            if waiting is None:
                waiting = self._unwritten[lease] = []
                self._disk.put_nowait((lease, partial(self._write, lease)))
            waiting.append((index, payload))
        self.changed.set()
        return self._uploads.is_news(lease, now)

    def is_granted(self, lease: str, index: int) -> bool:
        """Return whether a chunk was asked for, and has not arrived."""
        return self._uploads.is_granted(lease, index)

    @property
    def n_reports(self) -> int:
        """How many leases have a report that waits for a decision."""
        return len(self._reports)

    @property
    def n_waiting(self) -> int:
        """How many steps wait for the disk or for a check."""
        return self._disk.qsize() + self._checks.qsize()

    def drop(self, lease: str) -> None:
        """Nothing more is wanted under a lease."""
        self.decided(lease)
        self._disk.put_nowait((lease, partial(self._run_blocking, Lane.DISK, partial(self._part_files.delete, lease))))
        self.changed.set()

    def decided(self, lease: str) -> None:
        """An update was accepted: its file stays until it is in a version."""
        self._uploads.release(lease)
        self._reports.pop(lease, None)
        self._mismatches.pop(lease, None)
        self._under_check.discard(lease)

    async def _work_off(self, queue: asyncio.Queue[tuple[str, _Step]]) -> None:
        while True:
            lease, step = await queue.get()
            try:
                await step()
            except PeerError as error:
                self._tell(Refused(lease=lease, reason=error.reason, detail=error.detail))
            except OSError as error:
                log.error("disk_failed", lease=lease, error=str(error))
                await self._give_back()
                self._uploads.release(lease)  # the device's own timer offers it again
                self._under_check.discard(lease)
                self._tell(DiskLow())
            except InvalidState as error:
                if lease in self._under_check:  # else it was dropped while this waited, and its file deleted
                    log.error("upload_lost", lease=lease, error=str(error))
                    self._under_check.discard(lease)
                self._uploads.release(lease)

    async def _give_back(self) -> None:
        try:
            await self._run_blocking(Lane.DISK, self._part_files.give_back)
        except OSError as error:
            log.error("spares_not_deleted", error=str(error))

    async def _begin(self, lease: str) -> None:
        self._to_begin.discard(lease)
        report = self._reports.get(lease)
        if report is None or report.data is not None or lease in self._under_check:
            return  # decided, or sent as a whole, while this waited
        if report.size is None or report.sha256 is None or report.chunk_bytes is None:
            raise PeerError(Reason.FIELDS, "an offer has size, sha256 and chunk_bytes")
        layout = ChunkLayout(report.size, report.chunk_bytes)
        known = self._uploads.get(report.lease)
        if known is None:
            have = await self._run_blocking(Lane.DISK, partial(self._part_files.begin, report))
            if self._reports.get(report.lease) is not report:
                return
            self._uploads.offer(report.lease, report.sha256, layout, have)
        elif self._uploads.offer(report.lease, report.sha256, layout):
            self._forget_unwritten(lease)  # chunks of what was offered before
            await self._run_blocking(Lane.DISK, partial(self._part_files.begin, report))
        self._check_if_whole(report.lease)
        self.changed.set()

    async def _write(self, lease: str) -> None:
        """Write all chunks of an upload that have arrived by now: a way to the disk costs as much as a chunk."""
        chunks = self._unwritten.pop(lease, [])
        try:
            if chunks and self._uploads.get(lease) is not None:
                await self._run_blocking(Lane.DISK, partial(self._part_files.write, lease, chunks))
        finally:
            self.unwritten_bytes -= sum(len(payload) for _, payload in chunks)
            self.changed.set()
        self._check_if_whole(lease)

    def _forget_unwritten(self, lease: str) -> None:
        self.unwritten_bytes -= sum(len(payload) for _, payload in self._unwritten.pop(lease, []))

    def _check_if_whole(self, lease: str) -> None:
        upload = self._uploads.get(lease)
        if upload is None or not upload.arrived.is_full or lease in self._under_check:
            return
        # chunks of it may still wait to be written: the check goes through the same queue, behind them
        self._under_check.add(lease)
        self._disk.put_nowait((lease, partial(self._finish, lease)))

    async def _finish(self, lease: str) -> None:
        report = self._reports.get(lease)
        if report is None or self._uploads.get(lease) is None:
            return
        if await self._run_blocking(Lane.DISK, partial(self._part_files.digest, lease)) != report.sha256:
            self._mismatches[lease] = self._mismatches.get(lease, 0) + 1
            if self._mismatches[lease] >= MISMATCHES:
                raise PeerError(Reason.DIGEST, "the chunks do not add up to what was offered")
            await self._run_blocking(Lane.DISK, partial(self._part_files.clear, lease))
            self._under_check.discard(lease)
            if self._uploads.get(lease) is not None:
                self._uploads.again(lease)
            self.changed.set()
            return
        await self._run_blocking(Lane.DISK, partial(self._part_files.finish, lease))
        self._uploads.release(lease)
        self.changed.set()
        self._checks.put_nowait((lease, partial(self._check_file, lease)))

    async def _check_file(self, lease: str) -> None:
        stored = await self._run_blocking(Lane.DISK, partial(self._part_files.open, lease))
        norm = await self._check(stored.report, stored.data)
        self._tell(_verified(stored.report, None, norm))

    async def _check_inline(self, report: Report, data: bytes) -> None:
        if await self._run_blocking(Lane.COMPUTE, partial(sha256_hex, data)) != report.sha256:
            raise PeerError(Reason.DIGEST, "the data do not match their sha256")
        norm = await self._check(report, data)
        self._tell(_verified(report, data, norm))

    async def _check(self, report: Report, data: bytes | FileBytes) -> float:
        codec = codec_named(report.codec, self._spec)
        work = partial(verify, codec, data, self._spec.n_params, max_norm=self._max_norm)
        return await self._run_blocking(Lane.COMPUTE, work)


def _verified(report: Report, data: bytes | None, norm: float) -> Verified:
    if report.num_examples is None or report.size is None or report.sha256 is None:
        raise PeerError(Reason.FIELDS, "a trained report has num_examples, size and sha256")
    return Verified(
        lease=report.lease,
        num_examples=report.num_examples,
        n_steps=report.n_steps,
        codec=report.codec,
        size=report.size,
        sha256=report.sha256,
        fetch_seconds=report.fetch_seconds,
        train_seconds=report.train_seconds,
        offline_seconds=report.offline_seconds,
        loss=_mean_of(report, "loss"),
        initial_loss=_mean_of(report, INITIAL_LOSS),
        norm=norm,
        data=data,
    )


def _mean_of(report: Report, metric: str) -> float | None:
    match report.metrics.get(metric):
        case None | (_, 0):
            return None
        case (total, n):
            return total / n
        case float() as mean:
            return mean
