import asyncio
from typing import NoReturn

import pytest

from shared.errors import InvalidState, TransportError
from shared.task_groups import rethrow, spawn

LOST = TransportError("gone")


def test_lost_link_is_the_least_of_many_errors() -> None:
    """A bug is never hidden behind the lost link that came with it."""
    nested = BaseExceptionGroup("outer", [LOST, BaseExceptionGroup("inner", [LOST, InvalidState("bug")])])
    with pytest.raises(InvalidState, match="bug"):
        _rethrow_in_task(nested)
    with pytest.raises(TransportError, match="gone"):
        _rethrow_in_task(BaseExceptionGroup("all", [LOST, LOST]))


def _rethrow_in_task(errors: BaseExceptionGroup[BaseException]) -> None:
    async def run() -> NoReturn:
        rethrow(errors)

    asyncio.run(run())


async def test_cancel_in_the_moment_of_a_loss_is_not_forgotten() -> None:
    """A task that is cancelled while its group fails ends cancelled."""

    async def work() -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(lose())
                    await asyncio.sleep(60)
            except BaseExceptionGroup as errors:
                try:
                    rethrow(errors)
                except TransportError:
                    await asyncio.sleep(60)  # a device would reconnect now

    async def lose() -> None:
        await broken.wait()
        raise LOST

    broken = asyncio.Event()
    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    broken.set()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_ending_group_takes_no_more_work() -> None:
    """A callback that runs a moment too late starts nothing, and raises nothing."""
    group = asyncio.TaskGroup()
    ran = []

    async def work() -> None:
        ran.append(1)

    async with group:
        spawn(group, work(), "early")
    assert spawn(group, work(), "late") is None
    assert ran == [1]
