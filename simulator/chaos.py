"""What a scenario's `[[faults]]` do to a fleet for real, when their time comes, and a line about each.

Whoever suffers is behind `Sufferers`: the processes of a rehearsal, or parts in containers behind their sockets. A part
that cannot be reached at that moment is said, and the schedule goes on.

Not here: when faults come and whom a partition cuts off (`scenarios/faults.py`), which is the same in virtual time.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from shared.errors import FederationError
from simulator.scenarios.faults import FleetFault, cut_off, instants

__all__ = ["ChaosEvent", "Sufferers", "carry_out", "read_events"]


class Sufferers(Protocol):
    """Whom it may hit."""

    async def restart(self, part: str, down_s: float) -> None:
        """Kill "broker" or "aggregator"; it is back after so many seconds."""

    async def cut(self, device: str, lasts_s: float) -> None:
        """Break a device's link, for so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosEvent:
    """One thing that was done.

    Args:
        at_s: seconds from the begin.
        kind: as the scenario calls it.
        lasts_s: seconds.
        devices: that were cut off.
        failed: why somebody was not hit; "" when all were.
    """

    at_s: float
    kind: str
    lasts_s: float
    devices: tuple[str, ...] = ()
    failed: str = ""


async def carry_out(
    faults: Sequence[FleetFault], devices: Sequence[str], *, seed: int, on: Sufferers, log: Path
) -> None:
    """Do what the faults say, from now on; for ever when one of them comes again and again.

    Args:
        faults: of the scenario.
        devices: ids of all devices, in the order of the plan.
        seed: of the scenario.
        on: whom.
        log: a line of JSON is appended for each event, once it has begun.
    """
    clock = asyncio.get_running_loop().time
    begun = clock()

    async def one(number: int, fault: FleetFault) -> None:
        for occurrence, at_s in enumerate(instants(fault), start=1):
            await asyncio.sleep(begun + at_s - clock())
            hit: tuple[str, ...] = ()
            if fault.share is not None:
                # counted within one fault, so that adding another moves none of its cuts; as in virtual time
                hit = cut_off(devices, fault.share, seed=seed, number=number * 1_000_000 + occurrence)
            failed = await _hit(fault, hit, on)
            event = ChaosEvent(
                at_s=round(clock() - begun, 3), kind=fault.kind, lasts_s=fault.lasts_s, devices=hit, failed=failed
            )
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")

    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(faults):
            group.create_task(one(number, fault), name=f"{fault.kind} {number}")


async def _hit(fault: FleetFault, devices: Sequence[str], on: Sufferers) -> str:
    """Begin a fault; return why somebody is not hit."""
    try:
        if fault.kind == "partition":
            done = await asyncio.gather(*(on.cut(device, fault.lasts_s) for device in devices), return_exceptions=True)
            errors = [each for each in done if isinstance(each, BaseException)]
            if wrong := [each for each in errors if not isinstance(each, FederationError)]:
                raise wrong[0]
            return "; ".join(map(str, errors))
        await on.restart(fault.kind.removesuffix("_restart"), fault.lasts_s)
    except FederationError as error:
        return str(error)
    return ""


def read_events(log: Path) -> list[ChaosEvent]:
    """Return what was done; [] where there was no chaos."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").splitlines()
    return [ChaosEvent(**{**json.loads(line), "devices": tuple(json.loads(line)["devices"])}) for line in lines]
