"""A second aggregator, on the broker of a fleet that may be served already."""

import asyncio
from random import Random

from aggregator.config import Settings
from aggregator.service import Aggregator
from simulator.fleet import WALL_START_S, Fleet
from simulator.inline_blocking import InlineBlocking
from tests.integration.linear import LinearTask

__all__ = ["another"]


def another(fleet: Fleet, settings: Settings) -> Aggregator:
    """Return a second aggregator on the same broker."""
    loop = asyncio.get_running_loop()
    return Aggregator(
        settings,
        LinearTask(),
        fleet.broker.transport("aggregator-2"),
        run_blocking=InlineBlocking(Random(2)),
        rng=Random(2),
        wall=lambda: WALL_START_S + loop.time(),
    )
