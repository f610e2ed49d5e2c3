"""One process of a rehearsal with its devices, and what befalls it: crashes, reboots, hours in which it is off.

A device that anything befalls has a process of its own; the others share theirs, and live from the begin to the end.
When it happens is said by `scenarios/`, as in virtual time.

Not here: what is in such a process (`hosted.py`), what happens to the broker or to many devices at once (`chaos.py`).
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import pairwise
from pathlib import Path

from broker.server.faulty_link import FaultyLink
from simulator.processes import Child
from simulator.restartable import Restartable
from simulator.scenario import PlannedDevice
from simulator.scenarios.availability import Absence, Span, spans
from simulator.scenarios.faults import DeathKind, deaths
from simulator.scenarios.trace_files import trace_of
from simulator.scenarios.traces import Trace

__all__ = ["Cuts", "RehearsedHost"]


class Cuts:
    """Which links are down, and why: one is up again when nobody wants it down any more.

    Args:
        links: by device.
    """

    def __init__(self, links: Mapping[str, FaultyLink]) -> None:
        self._links = links
        self._causes: defaultdict[str, set[str]] = defaultdict(set)

    async def cut(self, device: str, cause: str) -> None:
        """Take a link down."""
        self._causes[device].add(cause)
        await self._links[device].down()

    def mend(self, device: str, cause: str) -> None:
        """Let a link up again, unless something else keeps it down."""
        self._causes[device].discard(cause)
        if not self._causes[device]:
            self._links[device].up()


class RehearsedHost:
    """One process.

    Args:
        devices: that live in it; one, if anything is to befall it.
        start: begins its n-th life.
        seed: of the scenario.
        start_hour: hour of the day at which the run begins.
        traces: by the paths that the scenario names.
        cuts: of the rehearsal.
    """

    def __init__(
        self,
        devices: Sequence[PlannedDevice],
        start: Callable[[int], AbstractAsyncContextManager[Child]],
        *,
        seed: int,
        start_hour: float,
        traces: Mapping[Path, tuple[Trace, ...]],
        cuts: Cuts,
    ) -> None:
        self.devices = devices
        self._seed, self._start_hour, self._traces, self._cuts = seed, start_hour, traces, cuts
        faults = devices[0].faults
        self.process: Restartable[Child] = Restartable(start, killed=faults.down_s if faults.dropout else None)

    async def run(self) -> None:
        """Live, with everything that befalls it, until cancelled.

        Raises:
            FederationError: the process ended by itself.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                if not device.availability.is_always:
                    group.create_task(self._come_and_go(device, begun), name=f"availability of {device.id}")
                if device.faults.crash_every_s is not None or device.faults.reboot_every_s is not None:
                    group.create_task(self._die_now_and_then(device, begun), name=f"deaths of {device.id}")
            await self._live(begun)

    async def _live(self, begun: float) -> None:
        device = self.devices[0]
        if device.is_alone and not device.availability.is_always and device.availability.absence is Absence.OFF:
            first_s, _ = next(self._spans(device))
            await _until(begun + first_s)
        code = await self.process.run()
        assert self.process.life is not None
        raise self.process.life.failure(code)

    async def _die_now_and_then(self, device: PlannedDevice, begun: float) -> None:
        for death in deaths(device.faults, seed=self._seed, device=device.id):
            await _until(begun + death.at_s)
            if self.process.is_up:
                how = self.process.kill if death.kind is DeathKind.CRASH else self.process.reboot
                await how(device.faults.down_s)

    async def _come_and_go(self, device: PlannedDevice, begun: float) -> None:
        clock = asyncio.get_running_loop().time
        if device.availability.absence is Absence.OFF:
            for (_, end_s), (next_s, _) in pairwise(self._spans(device)):
                await _until(begun + end_s)
                await self.process.reboot(max(0.0, begun + next_s - clock()))
            return
        await self._cuts.cut(device.id, "trace")
        for start_s, end_s in self._spans(device):
            await _until(begun + start_s)
            self._cuts.mend(device.id, "trace")
            if end_s == math.inf:
                return
            await _until(begun + end_s)
            await self._cuts.cut(device.id, "trace")

    def _spans(self, device: PlannedDevice) -> Iterator[Span]:
        trace = trace_of(device, self._traces)
        return spans(device.availability, seed=self._seed, device=device.id, trace=trace, start_hour=self._start_hour)


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
