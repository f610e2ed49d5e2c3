"""Chaos among containers: it reaches each part through its socket in the run's folder, and nothing else of it.

Not here: what is done when (`simulator.chaos`).
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from simulator.containers.control import SUFFIX, Order, tell
from simulator.containers.parts import AGGREGATOR, BROKER
from simulator.containers.places import Places

__all__ = ["OverSockets", "until_ready"]

LOOK_EVERY_S = 0.2


class OverSockets:
    """See `simulator.chaos.Sufferers`.

    Args:
        control: folder of the sockets.
    """

    def __init__(self, control: Path) -> None:
        self._control = control

    async def restart(self, part: str, down_s: float) -> None:
        """Kill a part that comes back."""
        await tell(self._control, part, Order(act="kill", lasts_s=down_s))

    async def cut(self, device: str, lasts_s: float) -> None:
        """Cut a device off."""
        await tell(self._control, device, Order(act="cut", lasts_s=lasts_s))


async def until_ready(places: Places, devices: Sequence[str]) -> None:
    """Wait until every part has its socket; a fleet that never gets all its devices suffers nothing."""
    names = [BROKER, AGGREGATOR, *devices]
    while not all((places.control / f"{name}{SUFFIX}").exists() for name in names):  # noqa: ASYNC110 - other processes
        await asyncio.sleep(LOOK_EVERY_S)
