"""What befalls a fleet, carried out: who is switched on and off, who dies, what is cut, when the broker restarts.

When it happens is said by `scenarios/`; here it is done, on the loop's time. A device that is to be there and is down
comes back when its time is over; one that is out of reach, or cut off by a partition, keeps running behind a link that
is down. All ends when the run does.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from simulator.fleet import AGGREGATOR, Fleet
from simulator.runs.ledger import Ledger
from simulator.scenario import PlannedDevice
from simulator.scenarios.availability import Absence, spans
from simulator.scenarios.faults import DeathKind, FleetFault, cut_off, deaths, instants
from simulator.scenarios.trace_files import trace_of
from simulator.scenarios.traces import Trace

__all__ = ["Fates"]

LOOK_EVERY_S = 0.25
"""Seconds between looks whether somebody who is to be killed in mid-upload uploads."""
REPORTING = "reporting"
"""A device's phase while it uploads."""


class Fates:
    """Carries out what a scenario says.

    Args:
        fleet: that it befalls; its devices are added, and off.
        plan: of all devices.
        faults: of the fleet.
        traces: by the paths that the scenario names.
        seed: of the scenario.
        start_hour: hour of the day at which the run begins.
        spread_s: within so many seconds of the begin devices are switched on.
        ledger: is told who is on.
        say: is told what befalls the whole fleet.
    """

    def __init__(
        self,
        fleet: Fleet,
        plan: Sequence[PlannedDevice],
        faults: Sequence[FleetFault],
        *,
        traces: Mapping[Path, tuple[Trace, ...]],
        seed: int,
        start_hour: float,
        spread_s: float,
        ledger: Ledger,
        say: Callable[[str], None],
    ) -> None:
        self._fleet, self._plan, self._faults, self._traces = fleet, plan, faults, traces
        self._seed, self._start_hour, self._spread_s = seed, start_hour, spread_s
        self._ledger, self._say = ledger, say
        self._loop = asyncio.get_running_loop()
        self._is_there: set[str] = set()
        self._down: set[str] = set()
        self._for_good: set[str] = set()
        self._cut_by: defaultdict[str, set[str]] = defaultdict(set)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.struck: defaultdict[str, int] = defaultdict(int)
        """How often each has happened."""

    @property
    def n_on(self) -> int:
        """Devices that are switched on."""
        return sum(self._fleet.is_running(device.id) for device in self._plan)

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Let it begin, in tasks of a group."""
        self._group = group
        for device in self._plan:
            if device.availability.is_always:
                delay_s = Random(f"{self._seed}/{device.id}/on").uniform(0.0, self._spread_s)
                self._loop.call_later(delay_s, self._appear, device)
            else:
                self._spawn(self._come_and_go(device), f"availability of {device.id}")
            if device.faults.crash_every_s is not None or device.faults.reboot_every_s is not None:
                self._spawn(self._die_now_and_then(device), f"deaths of {device.id}")
            if device.killed_in_upload:
                self._spawn(self._kill_in_upload(device), f"end of {device.id}")
        for index, fault in enumerate(self._faults):
            self._spawn(self._strike(index, fault), f"{fault.kind} {index}")

    def end(self) -> None:
        """Nothing more happens."""
        self._group = None
        for task in self._tasks:
            task.cancel()

    def drop_out(self, device: PlannedDevice) -> None:
        """A device drops out in the midst of a training."""
        self.struck["dropout"] += 1
        self._spawn(self._go_down(device, DeathKind.CRASH), f"dropout of {device.id}")

    # devices

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._group is None:  # the run is over
            work.close()
            return
        self._tasks.append(self._group.create_task(work, name=name))

    def _appear(self, device: PlannedDevice) -> None:
        self._is_there.add(device.id)
        self._switch_on(device)

    def _switch_on(self, device: PlannedDevice) -> None:
        name = device.id
        is_wanted = name in self._is_there and name not in self._down and name not in self._for_good
        if self._group is not None and is_wanted and not self._fleet.is_running(name):
            self._ledger.switched_on(name, self._loop.time())
            self._fleet.start(name)

    async def _come_and_go(self, device: PlannedDevice) -> None:
        trace = trace_of(device, self._traces)
        is_cut = device.availability.absence is Absence.OUT_OF_REACH
        delay_s = Random(f"{self._seed}/{device.id}/on").uniform(0.0, self._spread_s)
        if is_cut:
            self._cut(device.id, "trace")
            await asyncio.sleep(delay_s)
            self._appear(device)
        for start_s, end_s in spans(
            device.availability, seed=self._seed, device=device.id, trace=trace, start_hour=self._start_hour
        ):
            await self._until(start_s if start_s else delay_s)
            if is_cut:
                self._mend(device.id, "trace")
            else:
                self._appear(device)
            if end_s == math.inf:
                return
            await self._until(end_s)
            self.struck["absence"] += 1
            if is_cut:
                self._cut(device.id, "trace")
            else:
                self._is_there.discard(device.id)
                await self._fleet.switch_off(device.id)
                self._ledger.switched_off(device.id, self._loop.time())

    async def _die_now_and_then(self, device: PlannedDevice) -> None:
        for death in deaths(device.faults, seed=self._seed, device=device.id):
            await self._until(death.at_s)
            if self._fleet.is_running(device.id):
                self.struck[death.kind] += 1
                await self._go_down(device, death.kind)

    async def _go_down(self, device: PlannedDevice, kind: DeathKind) -> None:
        if device.id in self._down:
            return
        self._down.add(device.id)
        if kind is DeathKind.REBOOT:
            await self._fleet.switch_off(device.id)
        else:
            await self._fleet.kill(device.id)
        self._ledger.switched_off(device.id, self._loop.time())
        await asyncio.sleep(device.faults.down_s)
        self._down.discard(device.id)
        self._switch_on(device)

    async def _kill_in_upload(self, device: PlannedDevice) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            status = self._fleet.status_of(device.id)
            if status is not None and status.online and status.phase == REPORTING:
                break
        self.struck["killed_in_upload"] += 1
        self._for_good.add(device.id)
        await self._fleet.kill(device.id)
        self._ledger.switched_off(device.id, self._loop.time())

    # the fleet

    async def _strike(self, index: int, fault: FleetFault) -> None:
        for number, at_s in enumerate(instants(fault), start=1):
            await self._until(at_s)
            self.struck[fault.kind] += 1
            match fault.kind:
                case "broker_restart":
                    self._say(f"the broker dies, for {fault.lasts_s:g} s")
                    await self._restart_broker(fault)
                case "aggregator_restart":
                    self._say(f"the aggregator dies, for {fault.lasts_s:g} s")
                    await self._restart_aggregator(fault)
                case "partition":
                    await self._part(fault, index, number)

    async def _restart_broker(self, fault: FleetFault) -> None:
        broker = self._fleet.broker
        before = broker.faults
        if fault.keeps_retained:
            broker.faults = replace(before, autosave_s=0.0)
        broker.stop()
        broker.faults = before
        await asyncio.sleep(fault.lasts_s)
        broker.start()

    async def _restart_aggregator(self, fault: FleetFault) -> None:
        if not self._fleet.is_running(AGGREGATOR):
            return
        await self._fleet.kill(AGGREGATOR)
        await asyncio.sleep(fault.lasts_s)
        self._fleet.start_aggregator()

    async def _part(self, fault: FleetFault, index: int, number: int) -> None:
        assert fault.share is not None
        ids = [device.id for device in self._plan]
        chosen = cut_off(ids, fault.share, seed=self._seed, number=index * 1_000_000 + number)
        self._say(f"{len(chosen)} devices are cut off, for {fault.lasts_s:g} s")
        for device in chosen:
            self._cut(device, f"partition {index}")
        await asyncio.sleep(fault.lasts_s)
        for device in chosen:
            self._mend(device, f"partition {index}")

    def _cut(self, device: str, cause: str) -> None:
        self._cut_by[device].add(cause)
        self._fleet.broker.cut(device, for_good=True)

    def _mend(self, device: str, cause: str) -> None:
        self._cut_by[device].discard(cause)
        if not self._cut_by[device]:
            self._fleet.broker.mend(device)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._loop.time()))
