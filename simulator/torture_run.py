"""One run under torture: devices, links and lives of the aggregator, until the run is finished or the time is up.

It only starts, kills and waits. In the end everything is dead and lies in the run's folder, and the checks look at it.

    aggregator/   the run's folder: journal, versions, updates
    devices/      outboxes and caches, by device
    notes/        what devices wrote down, a file a process
    logs/         of every process

Not here: what is done when (`torture_plan.py`), special acts (`torture_acts.py`), what must hold (`torture_checks.py`).
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

from broker.link import Failures, LinkProfile
from broker.server.faulty_link import FaultyLink, faulty_link
from edge_client.files import OnDisk
from edge_client.outbox import Outbox
from simulator.torture_acts import Acts
from simulator.torture_broker import HOST, KillableBroker
from simulator.torture_checks import Held, Verdict, judge, read_rows
from simulator.torture_disk import LimitedFiles, SmallDisk, small_disk
from simulator.torture_model import differences, numbers_of
from simulator.torture_notes import read_notes
from simulator.torture_nursery import Nursery, Nursling
from simulator.torture_plan import (
    FLEET,
    Act,
    Kind,
    LifePlan,
    RunPlan,
    Scale,
    aggregator_settings,
    device_settings,
    lives,
)
from simulator.torture_tails import tear_log

__all__ = ["TortureRun"]

LOOK_EVERY_S = 0.05
SETTLE_S = 4.0
"""After the finish, seconds for devices to hear of it."""
LAST_VERSIONS = 2
"""A run that had too little time is told to finish after so many more."""
CALM_S = 60.0
"""Seconds without any fault in which it must have done so."""
BAD_LINK = LinkProfile(outages=Failures(every_s=1.5, lasts_s=0.2))
"""Of the aggregator itself, in some of its lives."""


class TortureRun:
    """One run. To be used once.

    Args:
        plan: what is done to it.
        scale: how large it is.
        folder: made; its own.
        nursery: starts processes.
        broker: running; shared by all runs.
    """

    def __init__(self, plan: RunPlan, scale: Scale, folder: Path, nursery: Nursery, broker: KillableBroker) -> None:
        self._plan, self._scale, self._folder, self._nursery, self._broker = plan, scale, folder, nursery, broker
        self._rng = Random(f"{plan.seed}/conductor")
        self._runs_folder = folder / "aggregator"
        self._disk: SmallDisk | None = None
        self._links: dict[str, FaultyLink] = {}
        self._own_link: FaultyLink | None = None
        self._processes: list[Nursling | None] = [None] * scale.processes
        self._calm = asyncio.Lock()
        """Whoever holds it is the only one who does any harm."""
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.violations: list[str] = []

    @property
    def run_folder(self) -> Path:
        """Of the aggregator."""
        return self._runs_folder / self._plan.name

    @property
    def is_finished(self) -> bool:
        """Whether the run has its final model."""
        return (self.run_folder / "final.safetensors").exists()

    async def run(self, stop: asyncio.Event, longest_s: float | None = None) -> Verdict:
        """Torture until the run is finished, `longest_s` seconds are over or `stop` is set; then judge."""
        for name in ("aggregator", "devices", "notes", "logs"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            if self._plan.kind is Kind.SMALL_DISK:
                self._disk = await stack.enter_async_context(small_disk(self._runs_folder))
            await self._open_links(stack)
            try:
                await self._torture(stop, longest_s)
            finally:
                await asyncio.gather(*(self._nursery.kill(each) for each in self._processes if each is not None))
            verdict = await asyncio.to_thread(self._judge)
            if verdict.violations and self._disk is not None:  # it will be gone with its disk
                await asyncio.to_thread(shutil.copytree, self._runs_folder, self._folder / "aggregator-kept")
            return verdict

    async def _torture(self, stop: asyncio.Event, longest_s: float | None) -> None:
        for number in range(self._scale.processes):
            await self._start_devices(number)
        async with asyncio.TaskGroup() as group:
            harm = [
                group.create_task(self._kill_brokers(), name="kill brokers"),
                group.create_task(self._kill_devices(), name="kill devices"),
            ]
            stopping = group.create_task(stop.wait(), name="stop")
            living = group.create_task(self._live(harm), name="lives")
            await asyncio.wait([stopping, living], return_when=asyncio.FIRST_COMPLETED, timeout=longest_s)
            for task in (*harm, stopping, living):
                task.cancel()
        await self._broker.ensure()

    # the aggregator

    async def _live(self, harm: Sequence["asyncio.Task[None]"]) -> None:
        """One life of the aggregator after the other, until the run is finished."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._scale.longest_run_s
        for life in lives(self._plan, self._scale):
            is_last = loop.time() >= ends_at
            if is_last:
                async with self._calm:
                    for task in harm:
                        task.cancel()
            child = await self._start_aggregator(life, is_last=is_last)
            try:
                if is_last:
                    await self._until_finished(child, CALM_S)
                    if not self.is_finished:
                        self.violations.append(f"stuck: no {LAST_VERSIONS} versions in {CALM_S:g} s without any fault")
                    await self._settle()
                    return
                await self._harm(life, child)
                if self.is_finished:
                    async with self._calm:
                        await self._settle()
                        return
            finally:
                await self._end(child, life)

    async def _harm(self, life: LifePlan, child: Nursling) -> None:
        """Do to a life what its plan says, and return when it is to end, or has."""
        if life.act in (Act.KILL, Act.STEP):
            await self._until_finished(child, life.after_s)
            return
        async with self._calm:
            means = f" ({self._disk.name})" if self._disk and life.act is Act.FILL_DISK else ""
            self.faults[f"{life.act}{means}"] += 1
            acts = Acts(self._broker.url, self._nursery, self._folder / "logs", disk=self._disk)
            self.violations += await acts.do(life.act, child, self._life(life, url=self._broker.url))

    async def _until_finished(self, child: Nursling, longest_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                while child.is_running and not self.is_finished:  # noqa: ASYNC110 - a file knows nothing of us
                    await asyncio.sleep(LOOK_EVERY_S)

    async def _start_aggregator(self, life: LifePlan, *, is_last: bool) -> Nursling:
        link = self._own_link if life.has_bad_link and not is_last else None
        if link is not None:
            self.faults["lives of an aggregator behind a link that breaks"] += 1
        if any(off for _, off in life.jumps):
            self.faults["clock jumps of a day"] += 1
        plan = self._life(life, url=self._broker.url if link is None else link.url)
        if is_last:
            plan["step"] = None
            plan["settings"]["stop"] = {"rounds": min(self._scale.versions, self._newest_version() + LAST_VERSIONS)}
        log = self._folder / "logs" / "aggregator.log"
        if life.act is Act.FILL_DISK and isinstance(self._disk, LimitedFiles):
            log = Path(os.devnull)  # a log is a file, too, and it has grown beyond the limit
        return await self._nursery.start("aggregator", "simulator.torture_aggregator", plan, log)

    def _newest_version(self) -> int:
        return max((int(path.stem) for path in (self.run_folder / "versions").glob("*.safetensors")), default=0)

    def _life(self, life: LifePlan, *, url: str) -> dict[str, Any]:
        settings = aggregator_settings(
            self._plan, self._scale, url=url, folder=self._runs_folder, inline_bytes=life.inline_bytes
        )
        return {
            "settings": settings,
            "n_params": self._plan.n_params,
            "seed": life.seed,
            "step": life.step and str(life.step),
            "nth": life.nth,
            "jumps": life.jumps,
        }

    async def _end(self, child: Nursling, life: LifePlan) -> None:
        """Kill a life that has not ended, count its end, and tear what it leaves."""
        is_ours = child.is_running
        code = await self._nursery.kill(child)
        if code == -signal.SIGKILL:
            kind = life.step if life.step is not None and not is_ours else Act.KILL
            self.kills[f"aggregator: {kind}"] += 1
        elif not (code == 0 and self.is_finished):
            self.violations.append(f"the aggregator ended by itself with exit code {code}; see {child.log}")
        if life.tear and (torn := tear_log(self.run_folder / "journal.sqlite", self._rng)) is not None:
            self.faults[torn] += 1

    # everybody else

    async def _open_links(self, stack: AsyncExitStack) -> None:
        for number, profile in self._plan.links.items():
            link = faulty_link(HOST, self._broker.port, profile, seed=f"{self._plan.seed}/{number}")
            self._links[_device(number)] = await stack.enter_async_context(link)
            self.faults["devices behind a bad link"] += 1
        own = faulty_link(HOST, self._broker.port, BAD_LINK, seed=f"{self._plan.seed}/aggregator")
        self._own_link = await stack.enter_async_context(own)

    async def _start_devices(self, number: int) -> None:
        devices = [_device(number * self._scale.devices + i) for i in range(self._scale.devices)]
        url, folder = self._broker.url, self._folder / "devices"
        plan = {
            "settings": device_settings(url=url, folder=folder),
            "urls": {device: self._links[device].url if device in self._links else url for device in devices},
            "n_params": self._plan.n_params,
            "notes": str(self._folder / "notes" / f"{number}.jsonl"),
        }
        log = self._folder / "logs" / f"devices-{number}.log"
        self._processes[number] = await self._nursery.start(f"devices {number}", "simulator.torture_devices", plan, log)

    async def _kill_devices(self) -> None:
        """Kill processes of devices, now and then so that the broker does not notice."""
        while True:
            await asyncio.sleep(self._scale.devices_every_s * self._rng.uniform(0.2, 1.8))
            async with self._calm:
                number = self._rng.randrange(self._scale.processes)
                child = self._processes[number]
                assert child is not None
                first = number * self._scale.devices
                links = [
                    link
                    for i in range(first, first + self._scale.devices)
                    if (link := self._links.get(_device(i))) is not None
                ]
                is_half_open = bool(links) and self._rng.random() < 0.5
                if is_half_open:
                    for link in links:
                        link.stall()
                    self.faults["connections left half-open"] += len(links)
                if await self._nursery.kill(child) != -signal.SIGKILL:
                    self.violations.append(f"a process of devices ended by itself; see {child.log}")
                self.kills["devices"] += self._scale.devices
                self.kills["processes of devices"] += 1
                await asyncio.sleep(self._rng.uniform(0, 0.5))
                await self._start_devices(number)
                for link in links if is_half_open else ():
                    link.resume()

    async def _kill_brokers(self) -> None:
        while True:
            await asyncio.sleep(self._scale.broker_every_s * self._rng.uniform(0.2, 1.8))
            async with self._calm:
                await self._broker.kill()
                self.kills["broker"] += 1
                await asyncio.sleep(self._rng.uniform(0, 0.3))
                await self._broker.start()

    async def _settle(self) -> None:
        """Let devices hear what became of their updates; those behind bad links may never."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while any(self._outbox_files()):  # noqa: ASYNC110 - a file knows nothing of us
                    await asyncio.sleep(4 * LOOK_EVERY_S)

    def _outbox_files(self) -> Iterator[Path]:
        """Yield what lies in the outboxes of devices whose link is good."""
        for path in (self._folder / "devices").glob(f"{FLEET}/*/outbox/*.report"):
            if path.parts[-3] not in self._links:
                yield path

    # the end

    def _judge(self) -> Verdict:
        """Hold everything that is left against everything else."""
        if not (self.run_folder / "journal.sqlite").exists():
            return Verdict(violations=self.violations)
        rows = read_rows(self.run_folder / "journal.sqlite")
        notes = list(read_notes(sorted((self._folder / "notes").glob("*.jsonl"))))
        verdict = judge(rows, notes, self._held())
        verdict.violations = [
            *self.violations,
            *verdict.violations,
            *differences(rows, numbers_of(notes), self.run_folder / "versions", self._plan.n_params),
        ]
        return verdict

    def _held(self) -> Iterator[Held]:
        """Yield what a device would find in its outbox at its next start."""
        for number in range(self._scale.population):
            folder = self._folder / "devices" / FLEET / _device(number) / "outbox"
            outbox = Outbox(OnDisk(folder), quota_bytes=2**40, keep_s=1e9)
            outbox.load()
            for entry in outbox.entries:
                yield Held(device=_device(number), lease=entry.lease, sha256=entry.report.sha256 or "")
            for damaged in folder.glob("*.damaged"):
                self.violations.append(f"an outbox entry is damaged: {damaged}")


def _device(number: int) -> str:
    return f"device-{number:02d}"
