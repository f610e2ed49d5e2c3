"""What goes on beside the rounds: timers are stored, the disk is looked at, chores are done.

A chore writes or deletes what no decision depends on: history, the best model, versions that nobody needs.

Not here: what a full disk means for the round (`round_machine.py`), the rows that decisions need (`row_writer.py`).
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from aggregator.events import DiskFree, DiskLow, Event
from aggregator.opening import OpenRun
from aggregator.phases import PauseCause
from aggregator.records import RoundClock
from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError

__all__ = ["Upkeep"]

log = structlog.get_logger(__name__)

CLOCK_EVERY_S = 5.0
VERSIONS_AHEAD = 4
SPARE_BYTES = 32 * 2**20
"""What the disk must take beside promised updates and a few versions: journal, history, plot."""


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
            group.create_task(self._keep_time(), name="upkeep-clock")

    async def _do_chores(self) -> None:
        while True:
            chore = await self._chores.get()
            try:
                await chore()
            except OSError as error:
                log.error("chore_failed", error=str(error))
            finally:
                self._chores.task_done()

    async def _keep_time(self) -> None:
        """Store where the timers stand, and look whether the disk can take what is still to come."""
        machine, loop = self._opened.machine, asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CLOCK_EVERY_S)
            left_s = machine.seconds_left(loop.time())
            try:
                if left_s is not None:
                    clock = RoundClock(
                        round_id=machine.round_id,
                        left_s=left_s,
                        n_extensions=machine.timer.n_extensions,
                        wall_s=self._wall(),
                    )
                    await self._opened.journal.store_clock(clock)
                is_low = await self._is_disk_low()
            except (ConfigError, OSError) as error:
                log.error("disk_failed", error=str(error))
                is_low = True
            if is_low != (PauseCause.DISK in machine.pausing.causes):
                self._tell(DiskLow() if is_low else DiskFree())

    async def _is_disk_low(self) -> bool:
        size = 4 * self._opened.aggregation.state.spec.n_params
        promised = sum(lease.record.max_bytes for lease in self._opened.machine.leases.open())
        disk = await self._run_blocking(Lane.DISK, partial(shutil.disk_usage, self._opened.folder.path))
        return disk.free < promised + VERSIONS_AHEAD * size + SPARE_BYTES
