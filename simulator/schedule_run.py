"""One crash schedule carried out: real services, a real journal, and whoever dies in virtual time.

Not here: what happens (`schedules.py`), what must hold (`schedule_witness.py`), many schedules (`schedule_pool.py`).
"""

import asyncio
import contextlib
import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import structlog

from aggregator.config import Settings
from aggregator.journal import read_journal
from aggregator.records import ConfigRecord
from edge_client.config import EdgeSettings, TimerSettings
from shared.blocking import Lane
from shared.errors import ConfigError, Reason, leaf_of
from simulator.fleet import AGGREGATOR, Fleet
from simulator.inline_blocking import DelayRange
from simulator.lossy_disk import LossyDisk, Machine, Step
from simulator.schedule_task import DrawnTask
from simulator.schedule_witness import Witness
from simulator.schedules import Crash, FullDisk, Schedule
from simulator.virtual_time import run_in_virtual_time

__all__ = ["Verdict", "carry_out"]

LIMIT_S = 20_000.0
"""Virtual seconds: a run that has not ended by then hangs."""
CALL_WITHIN_S = 1.0
"""Virtual seconds in which whoever is to die within a call makes one; then it dies all the same."""
SHARED_MEMORY = Path("/dev/shm")
BROKER = "broker"
DELAYS: Mapping[Lane, DelayRange] = {Lane.TRAINING: (0.05, 1.0)}
NO_ROOM = ("No space left", "disk is full")
"""What an error may say when a disk is full; nobody may log any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a schedule ended.

    Args:
        seed: of the schedule.
        violations: what must not be; none: it holds.
        n_crashes: deaths that came to pass.
        n_accepted: updates that count.
        n_states: states on devices' disks that were held against the journal.
        n_continued: updates that held what a codec had left out of earlier ones.
        virtual_s: how long the fleet took.
        journal: sha-256 of its rows, but for the configuration, which names folders; equal runs have equal ones.
    """

    seed: int
    violations: tuple[str, ...]
    n_crashes: int = 0
    n_accepted: int = 0
    n_states: int = 0
    n_continued: int = 0
    virtual_s: float = 0.0
    journal: str = ""


def carry_out(
    schedule: Schedule,
    *,
    say: Callable[[str], None] = lambda line: None,
    tells_messages: bool = False,
    is_honest: bool = True,
) -> Verdict:
    """Carry a schedule out; leaves nothing behind.

    Args:
        schedule: what happens.
        say: takes lines for people while it happens.
        tells_messages: whether each message is among them.
        is_honest: False: no disk keeps what it says that it has synchronised.
    """
    shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fedmq-schedule-", dir=shared))
    try:
        return _Run(schedule, folder, say, tells_messages=tells_messages, is_honest=is_honest).carry_out()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Run:
    def __init__(
        self, schedule: Schedule, folder: Path, say: Callable[[str], None], *, tells_messages: bool, is_honest: bool
    ) -> None:
        self._schedule, self._folder, self._tell = schedule, folder, say
        self._tells_messages, self._is_honest = tells_messages, is_honest
        self._settings = Settings.model_validate(
            {
                "task": "simulator.schedule_task:DrawnTask",
                "run": "schedule",
                "seed": schedule.seed,
                **schedule.tables,
                "output": {"folder": folder / "runs", "keep_best": False, "plot": False},
            }
        )
        self._task = DrawnTask(schedule.n_params)
        self._witness = Witness(self._task, self._say)
        self._is_full = False
        self._refused: list[str] = []
        self._grave: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_crashes = self._n_accepted = 0
        self._ended_at, self._journal = 0.0, ""

    def carry_out(self) -> Verdict:
        logs_before = structlog.get_config()
        structlog.configure(
            processors=[self._on_log],
            wrapper_class=structlog.make_filtering_bound_logger(40),
            logger_factory=structlog.ReturnLoggerFactory(),
        )
        try:
            with LossyDisk(is_honest=self._is_honest) as disk:
                run_in_virtual_time(self._live(disk), limit_s=LIMIT_S)
        except BaseExceptionGroup as group:
            error = leaf_of(group)
            if not isinstance(error, Exception):
                raise
            self._witness.note(f"{type(error).__name__}: {error}")
        except Exception as error:
            self._witness.note(f"{type(error).__name__}: {error}")
        finally:
            structlog.configure(**logs_before)
        return Verdict(
            seed=self._schedule.seed,
            violations=tuple(self._witness.violations),
            n_crashes=self._n_crashes,
            n_accepted=self._n_accepted,
            n_states=self._witness.n_states,
            n_continued=self._witness.n_continued,
            virtual_s=round(self._ended_at, 3),
            journal=self._journal,
        )

    async def _live(self, disk: LossyDisk) -> None:
        self._loop = asyncio.get_running_loop()
        schedule, settings = self._schedule, self._settings
        edge = EdgeSettings(folder=self._folder / "devices", timers=TimerSettings(receipt_min_s=4, receipt_max_s=20))
        async with Fleet(
            settings,
            self._task,
            edge.folder,
            seed=schedule.seed,
            faults=schedule.faults,
            edge=edge,
            disk=disk,
            late=schedule.late,
            show=self._show,
            show_death=self._witness.died,
            on_error=self._has_no_room,
        ) as fleet:
            self._witness.aggregator = fleet.machine(AGGREGATOR)
            for name in (AGGREGATOR, *schedule.links):
                self._machine(fleet, name).keeps_book = any(
                    crash.victim == name and crash.is_power_cut for crash in schedule.crashes
                )
            fleet.start_aggregator()
            self._witness.folders = {device: edge.state_folder(device) for device in schedule.links}
            for device, link in schedule.links.items():
                fleet.add(device, link=link, delays=DELAYS)
            async with asyncio.TaskGroup() as group:
                fates = [group.create_task(self._crash(fleet, crash)) for crash in schedule.crashes]
                fates += [group.create_task(self._fill(fleet, full)) for full in schedule.full_disks]
                result = await fleet.result()
                self._witness.is_over = True
                for fate in fates:
                    fate.cancel()
        self._ended_at = self._loop.time()
        records = list(read_journal(result.folder / "journal.sqlite"))
        self._n_accepted = result.counts["accepted"]
        rows = (repr(record) for record in records if not isinstance(record, ConfigRecord))
        self._journal = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        await self._witness.judge(settings, result, records, self._folder / "replay")

    async def _crash(self, fleet: Fleet, crash: Crash) -> None:
        await self._machine(fleet, AGGREGATOR).reached(Step.COMMIT, crash.after_commits)
        await asyncio.sleep(crash.delay_s)
        if crash.victim == BROKER:
            self._n_crashes += 1
            self._say(str(crash))
            fleet.broker.stop()
            await asyncio.sleep(crash.down_s)
            fleet.broker.start()
            return
        async with self._grave[crash.victim]:  # one death at a time
            died = asyncio.Event()
            if crash.within is not None:
                fleet.kill_within(crash.victim, crash.within, died.set)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CALL_WITHIN_S):
                        await died.wait()
            if not died.is_set():
                rng = Random(f"{self._schedule.seed}/{crash}") if crash.is_power_cut else None
                await fleet.kill(crash.victim, power_cut=rng)
            self._n_crashes += 1
            self._say(f"{crash}: dead")
            if crash.loses_folder:
                shutil.rmtree(self._witness.folders[crash.victim], ignore_errors=True)
                self._witness.forgetful.add(crash.victim)
            await asyncio.sleep(crash.down_s)
            self._start(fleet, crash.victim)

    async def _fill(self, fleet: Fleet, full: FullDisk) -> None:
        await self._machine(fleet, AGGREGATOR).reached(Step.COMMIT, full.after_commits)
        machine = self._machine(fleet, full.victim)
        self._witness.forgetful.add(full.victim)
        self._is_full = machine.is_full = True
        self._say(str(full))
        await asyncio.sleep(full.lasts_s)
        machine.is_full = False
        self._say(f"{full.victim}'s disk has room again")
        while self._refused:
            name = self._refused.pop()
            async with self._grave[name]:
                self._start(fleet, name)

    def _start(self, fleet: Fleet, name: str) -> None:
        if fleet.is_running(name):
            return
        self._say(f"{name} is back")
        if name == AGGREGATOR:
            fleet.start_aggregator()
        else:
            fleet.start(name)

    def _has_no_room(self, name: str, error: Exception) -> bool:
        """A service may refuse to start on a full disk, if it says so; whoever runs it tries again."""
        if not (isinstance(error, ConfigError) and self._is_full and any(words in str(error) for words in NO_ROOM)):
            return False
        self._say(f"{name} ends: {error}")
        self._refused.append(name)
        return True

    def _machine(self, fleet: Fleet, name: str) -> Machine:
        machine = fleet.machine(name)
        assert machine is not None
        return machine

    def _show(self, name: str, topic: str, payload: bytes) -> None:
        if self._tells_messages:
            self._say(f"{name} publishes {topic}, {len(payload)} bytes")
        self._witness.show(name, topic, payload)

    def _say(self, line: str) -> None:
        self._tell(line if self._loop is None else f"{self._loop.time():10.3f} s  {line}")

    def _on_log(self, logger: object, level: str, event: MutableMapping[str, Any]) -> str:
        """See what services log at level error: they may not, unless a disk is full, or a folder was deleted."""
        name = str(event.get("event"))
        has_no_room = self._is_full and any(words in str(event) for words in NO_ROOM)
        has_forgotten = event.get("reason") == str(Reason.STATE) and event.get("device") in self._witness.forgetful
        if not (has_no_room or has_forgotten):
            self._witness.note(f"log: {name} { ({k: v for k, v in event.items() if k not in ('event', 'exc_info')}) }")
        return ""
