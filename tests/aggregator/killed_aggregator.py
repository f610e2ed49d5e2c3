"""One life of a real aggregator that ends by SIGKILL at a point of `exactly_once.py`: an entry for the nursery."""

import os
import signal
from collections.abc import Mapping
from typing import Any

from aggregator import session
from simulator import torture_aggregator
from tests.aggregator.exactly_once import Point, watch

__all__ = ["main"]

SILENT_AFTER_S = 6.0
"""In place of twenty seconds; a status beats every five."""


def main(plan: Mapping[str, Any]) -> int:
    """Serve until killed, or to the end.

    Args:
        plan: as for `torture_aggregator`, and `point`, None to live.
    """
    session.SILENT_AFTER_S = SILENT_AFTER_S
    if plan["point"] is not None:
        watch(Point(plan["point"]), _die, setattr)
    return torture_aggregator.main({**plan, "step": None, "nth": 1, "seed": 0, "jumps": []})


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
