"""How the servers that are not ours say that a round has ended: a line of JSON in their log, and reading it.

Announcing needs the standard library alone: it runs in Flower's environment, too.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["ROUND", "announce_deviation", "announce_round", "deviation_in", "follow_rounds"]

ROUND: Final = '{"round_ended_at_s": '
"""How a line begins that says so."""
_DEVIATION: Final = '{"deviation": '
_LOOK_EVERY_S: Final = 0.005
"""The time of a round is in the line itself; what is read late by this much is its CPU."""


def announce_round() -> None:
    """Say that a round has ended now."""
    print(json.dumps({"round_ended_at_s": time.monotonic()}), flush=True)


def announce_deviation(largest: float) -> None:
    """Say how far the final model is from what it should be."""
    print(json.dumps({"deviation": largest}), flush=True)


async def follow_rounds(log: Path, n_rounds: int, ended: Callable[[float], None], *, limit_s: float) -> None:
    """Read a log that grows, until so many rounds have ended.

    Args:
        log: of the server.
        n_rounds: to wait for.
        ended: is told when each ended, on the machine's monotonic clock.
        limit_s: seconds that a round may take.

    Raises:
        TimeoutError: one takes longer.
    """
    loop = asyncio.get_running_loop()
    with log.open(errors="replace") as lines:
        line = ""
        async with asyncio.timeout(limit_s) as limit:
            while n_rounds:
                line += lines.readline()
                if not line.endswith("\n"):  # nothing new, or half a line
                    await asyncio.sleep(_LOOK_EVERY_S)
                    continue
                if line.startswith(ROUND):
                    ended(json.loads(line)["round_ended_at_s"])
                    limit.reschedule(loop.time() + limit_s)
                    n_rounds -= 1
                line = ""


def deviation_in(log: Path) -> float | None:
    """Return what `announce_deviation` said; None: nothing yet."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith(_DEVIATION):
            return float(json.loads(line)["deviation"])
    return None
