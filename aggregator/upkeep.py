"""What goes on beside the rounds: timers are stored, the disk is looked at, chores are done.

A chore writes or deletes what no decision depends on: history, the best model, versions that nobody needs.

Not here: what a full disk means for the round (`round_machine.py`), how many leases fit (`disk_budget.py`), the rows
that decisions need (`row_writer.py`).
"""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import structlog

from aggregator.codec_choice import CodecChoice, sizes_of
from aggregator.events import DiskFree, DiskLow, DiskSeen, Event
from aggregator.opening import OpenRun
from aggregator.phases import PauseCause, Phase
from aggregator.publishing import KEPT_VERSIONS
from aggregator.records import RoundClock
from aggregator.run_folder import RunFolder
from aggregator.summing_up import Failures
from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError, Reason

__all__ = ["SPARE_BYTES", "Upkeep"]

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
SPARE_BYTES = 32 * 2**20
"""What the disk must take beside updates and versions: journal, history, plot."""
PROBE_BYTES = 2**20
"""Written to a disk that took no more, to see whether it does again: free space is not all that may be missing."""

_LACKING: Mapping[Reason, tuple[str, str]] = MappingProxyType(
    {
        Reason.STATE: (
            "waiting_for_devices_that_keep_state",
            "let them keep state (keeps_state on the device), or use fedavg or fedprox, which need none",
        ),
        Reason.CODEC: (
            "waiting_for_devices_that_speak_the_codec",
            'bring their clients up to date, or set training.codec = "auto"; not_eligible says what each lacks',
        ),
        Reason.SPEC: (
            "waiting_for_devices_with_the_same_model",
            "give them the task of this run; which parameter differs is said in their logs, under spec_differs",
        ),
    }
)
"""Why devices that are there cannot take part: the warning, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Disk:
    """What a look at the disk has shown, in bytes."""

    free: int
    ours: int
    """That our files already take."""
    for_versions: int
    """That versions take or will: one for each model kept on the broker, the next, the best, the final one."""
    next_version: int


class Upkeep:
    """Looks after the folder of one run.

    Args:
        opened: the run.
        run_blocking: the seam to threads.
        tell: takes events for the round machine.
        wall: Unix time.
    """

    def __init__(
        self, opened: OpenRun, run_blocking: RunBlocking, *, tell: Callable[[Event], None], wall: Callable[[], float]
    ) -> None:
        self._opened, self._run_blocking, self._tell, self._wall = opened, run_blocking, tell, wall
        self._chores: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._is_small = self._is_low = False
        self._waits_for_quotas = False
        self._waits_for: set[Reason] = set()
        self._failures = Failures()

    def put(self, chore: Callable[[], Awaitable[None]]) -> None:
        """Queue a chore that awaits."""
        self._chores.put_nowait(chore)

    def put_blocking(self, work: Callable[[], None]) -> None:
        """Queue a chore for the lane DISK."""
        self.put(partial(self._run_blocking, Lane.DISK, work))

    async def done(self) -> None:
        """Return when no chore is left."""
        await self._chores.join()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._do_chores(), name="upkeep-chores")
            group.create_task(self._keep_looking(), name="upkeep-clock-and-disk")

    async def _do_chores(self) -> None:
        while True:
            chore = await self._chores.get()
            try:
                await chore()
            except OSError as error:
                log.error("chore_failed", error=str(error))
            finally:
                self._chores.task_done()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._warn_of_quotas()
            self._warn_of_refusals()
            try:
                await self._store_clock()
                is_low = await self.look()
                if times := self._failures.went_well():
                    log.info("disk_works_again", after_failures=times)
            except (ConfigError, OSError) as error:
                if times := self._failures.failed(asyncio.get_running_loop().time()):
                    log.error("disk_failed", error=str(error), folder=str(self._opened.folder.path), times=times)
                is_low = True
            if is_low != self._is_paused:
                self._tell(DiskLow() if is_low else DiskFree())

    @property
    def _is_paused(self) -> bool:
        return PauseCause.DISK in self._opened.machine.pausing.causes

    def _warn_of_quotas(self) -> None:
        """Say once that a round does not begin because everybody else has had a share."""
        machine, now = self._opened.machine, asyncio.get_running_loop().time()
        need, waits = machine.settings.round.quorum_count, machine.phase is Phase.WAITING
        n_barred = machine.invitations.n_barred(now) if waits else 0
        has_to_wait = n_barred > 0 and machine.n_at_hand(now) < need
        if has_to_wait and not self._waits_for_quotas:
            log.warning(
                "waiting_for_quotas",
                barred=n_barred,
                have=machine.n_at_hand(now),
                need=need,
                hint="lower selection.min_separation or raise max_per_day, or add devices",
            )
        self._waits_for_quotas = has_to_wait

    def _warn_of_refusals(self) -> None:
        """Say once that a round does not begin because devices that are there have to be turned away."""
        machine, now = self._opened.machine, asyncio.get_running_loop().time()
        refusals = machine.population.refusals() if machine.phase is Phase.WAITING else Counter[Reason]()
        lacking = refusals.keys() & _LACKING.keys()
        if lacking and (have := machine.n_at_hand(now)) < (need := machine.settings.round.quorum_count):
            for reason in sorted(lacking - self._waits_for):
                event, hint = _LACKING[reason]
                log.warning(event, refused=refusals[reason], have=have, need=need, hint=hint)
            self._waits_for = lacking
        else:
            self._waits_for = set()

    async def _store_clock(self) -> None:
        """Store where the timers stand, for a restart."""
        machine = self._opened.machine
        left_s = machine.seconds_left(asyncio.get_running_loop().time())
        if left_s is None:
            return
        clock = RoundClock(
            round_id=machine.round_id,
            left_s=left_s,
            n_extensions=machine.timer.n_extensions,
            wall_s=self._wall(),
        )
        await self._opened.journal.store_clock(clock)

    async def look(self) -> bool:
        """Tell the machine how much room there is for updates; return whether the disk is nearly full.

        Raises:
            OSError: the disk fails, or takes no more.
        """
        folder, n_params = self._opened.folder, self._opened.aggregation.state.spec.n_params
        n_kept = max(KEPT_VERSIONS, len(self._opened.models))
        disk = await self._run_blocking(Lane.DISK, partial(_look, folder, 4 * n_params, n_kept))
        budget = disk.free + disk.ours + self._opened.machine.disk.rows_there
        if (at_most := self._opened.settings.output.disk_bytes) is not None:
            budget = min(budget, at_most)
        for_updates = budget - disk.for_versions - SPARE_BYTES
        self._warn_of_a_small_disk(for_updates, disk)
        self._tell(DiskSeen(for_updates=for_updates))
        free = disk.free
        if free < disk.next_version + SPARE_BYTES:
            free += await self._run_blocking(Lane.DISK, self._opened.part_files.give_back)
        is_low = free < disk.next_version + SPARE_BYTES
        self._warn_of_a_low_disk(free, disk.next_version, is_low=is_low)
        if self._is_paused and not is_low:
            await self._run_blocking(Lane.DISK, partial(_probe, folder.updates / ".probe"))
        return is_low

    def _warn_of_a_small_disk(self, for_updates: int, disk: _Disk) -> None:
        """Say it once when the updates of a round do not fit: it could never reach its quorum."""
        n_updates = self._opened.settings.round.quorum_count
        opened = self._opened
        codecs = CodecChoice(opened.settings, sizes_of(opened.aggregation.state.spec))
        needed = (codecs.usual_bytes + opened.machine.disk.row_bytes) * n_updates
        if for_updates < needed and not self._is_small:
            log.warning(
                "disk_too_small_for_a_round",
                folder=str(self._opened.folder.path),
                needed=f"{_size(needed)} for {n_updates} updates",
                there_is=_size(max(0, for_updates)),
                missing=_size(needed - for_updates),
                kept_free=f"{_size(disk.for_versions)} for versions, {_size(SPARE_BYTES)} for journal and history",
                hint="make room, raise output.disk_bytes, or lower round.report_goal",
            )
        self._is_small = for_updates < needed

    def _warn_of_a_low_disk(self, free: int, version: int, *, is_low: bool) -> None:
        """Say it once when the next version would not fit: the run pauses until it does."""
        if is_low and not self._is_low:
            log.warning(
                "disk_nearly_full",
                folder=str(self._opened.folder.path),
                free=_size(free),
                needed=f"{_size(version)} for the next version, {_size(SPARE_BYTES)} for journal and history",
                missing=_size(version + SPARE_BYTES - free),
            )
        self._is_low = is_low


def _look(folder: RunFolder, model_bytes: int, n_kept: int) -> _Disk:
    versions = [_allocated(path) for path in folder.versions.iterdir()]
    version = max([*versions, model_bytes])
    extras = [_allocated(path) for path in (folder.best, folder.final)]
    updates = [_allocated(path) for path in folder.updates.iterdir()]
    return _Disk(
        free=shutil.disk_usage(folder.path).free,
        ours=sum(versions) + sum(extras) + sum(updates),
        for_versions=(n_kept + 1) * version + 2 * model_bytes,
        next_version=version,
    )


def _size(n_bytes: int) -> str:
    """Return a size for people."""
    return f"{n_bytes / 2**20:.1f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.1f} KiB"


def _allocated(path: Path) -> int:
    """Return what a file takes on the disk: a part file is mostly holes."""
    try:
        return 512 * path.stat().st_blocks
    except FileNotFoundError:  # it was never there, or has just gone
        return 0


def _probe(path: Path) -> None:
    try:
        with path.open("wb", buffering=0) as file:
            file.write(bytes(PROBE_BYTES))
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
