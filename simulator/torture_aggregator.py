"""One life of the aggregator under torture: the real service, started by an entry of its own.

What is unlike `python -m aggregator run`: the task computes in this process, the wall clock jumps as the plan says, and
the process kills itself at the step of the plan (`torture_steps.py`).

Not here: who is killed when (`torture_plan.py`), starting the process (`torture_nursery.py`).
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from aggregator import publishing
from aggregator.config import Settings
from aggregator.service import Aggregator
from broker.mqtt import MqttTransport
from shared.blocking import Threads
from shared.errors import ConfigError
from shared.logs import set_up_logs
from simulator.torture_steps import SelfKilling, Step
from simulator.torture_task import CountingTask

__all__ = ["main", "wall_of"]

READ_BACK_S = 0.5
"""In place of ten seconds, longer than most lives here: on this machine what a broker has comes at once."""


def main(plan: Mapping[str, Any]) -> int:
    """Serve until the run has ended; the exit code is the command's.

    Args:
        plan: `settings` of the run, `n_params` of its model, `seed`, `step` and `nth` of the kill, `jumps` of the
            clock.
    """
    set_up_logs("info", as_json=True)
    publishing.READ_BACK_S = READ_BACK_S
    try:
        asyncio.run(_serve(plan))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


async def _serve(plan: Mapping[str, Any]) -> None:
    settings = Settings.model_validate(plan["settings"])
    step = Step(plan["step"]) if plan["step"] else None
    with Threads() as threads:
        blocking = SelfKilling(threads, step, plan["nth"], Random(plan["seed"]))
        blocking.listen()
        aggregator = Aggregator(
            settings,
            CountingTask(plan["n_params"]),
            MqttTransport(settings.broker, client_id=f"{settings.fleet}-aggregator-{secrets.token_hex(4)}"),
            run_blocking=blocking,
            wall=wall_of(plan["jumps"]),
        )
        await aggregator.run()


def wall_of(jumps: Sequence[Sequence[float]], monotonic: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    """Return a wall clock that jumps.

    Args:
        jumps: (seconds after now, seconds that the clock is off from then on), in order.
        monotonic: a clock that does not jump.
    """
    begun = monotonic()

    def wall() -> float:
        passed = monotonic() - begun
        return time.time() + next((off for after, off in reversed(jumps) if after <= passed), 0.0)

    return wall
