"""The processes of a turn: what they all find in their environment, and that none may end before the work is done."""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Final

from bench.turn import Setting
from bench.work import MODEL_BYTES
from shared.config import ENV_PREFIX
from shared.errors import FederationError, leaf_of
from simulator.processes import Child

__all__ = ["ROOT", "environment", "until_all_left", "while_all_run"]

ROOT: Final = Path(__file__).parents[1]
"""Of the clone."""
LEAVE_S: Final = 60.0
"""Everybody has left by then, once the work is done."""


def environment(setting: Setting) -> dict[str, str]:
    """Return the variables of every process of a turn."""
    return {
        # settings of ours that somebody has set for something else
        **{name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)},
        MODEL_BYTES: str(setting.case.model_bytes),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


async def while_all_run(children: Sequence[Child], work: Awaitable[None]) -> None:
    """Await `work`; a process that ends meanwhile has failed.

    Args:
        children: the server first.
        work: raises TimeoutError when it hears nothing of the server for too long.

    Raises:
        FederationError: a process has failed, or the work has.
    """

    async def guard(child: Child) -> None:
        raise child.failure(await child.ended())

    try:
        async with asyncio.TaskGroup() as group:
            guards = [group.create_task(guard(child), name=child.name) for child in children]
            await work
            for each in guards:
                each.cancel()
    except BaseExceptionGroup as errors:
        error, server = leaf_of(errors), children[0]
        if isinstance(error, TimeoutError):
            error = FederationError(f"nothing is heard of {server.name} any more; its log is {server.log}")
        raise error from errors


async def until_all_left(children: Sequence[Child]) -> None:
    """Wait until every process has ended by itself and well.

    Raises:
        FederationError: one has not.
    """
    for child in children:
        try:
            async with asyncio.timeout(LEAVE_S):
                code = await child.ended()
        except TimeoutError as error:
            raise FederationError(f"{child.name} does not end; its log is {child.log}") from error
        if code != 0:
            raise child.failure(code)
