import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from simulator.restartable import Restartable

pytestmark = pytest.mark.virtual_time


class Scripted:
    """A life that ends when it is killed, or after its time."""

    def __init__(self, after_s: float, code: int) -> None:
        self._after_s, self._code = after_s, code
        self._killed = asyncio.Event()

    async def ended(self) -> int:
        try:
            async with asyncio.timeout(self._after_s):
                await self._killed.wait()
        except TimeoutError:
            return self._code
        return -signal.SIGKILL

    def kill(self) -> None:
        self._killed.set()

    def end(self) -> None:
        self._code = 0
        self._killed.set()


def part(*codes: int, after_s: float = 100.0, killed: float | None = None) -> tuple[Restartable[Scripted], list[float]]:
    """A part whose n-th life ends by itself with the n-th code, and when its lives began."""
    begun: list[float] = []

    @asynccontextmanager
    async def life(number: int) -> AsyncIterator[Scripted]:
        begun.append(asyncio.get_running_loop().time())
        yield Scripted(after_s, codes[number - 1])

    return Restartable(life, killed=killed), begun


async def test_part_that_ends_by_itself_is_over() -> None:
    """Its exit code is the part's."""
    broker, begun = part(3)
    assert await broker.run() == 3
    assert begun == [0.0]


async def test_part_that_is_killed_comes_back_when_its_time_is_up() -> None:
    """A kill says for how long; the next life ends as it likes."""
    broker, begun = part(0, 0)
    running = asyncio.ensure_future(broker.run())
    await asyncio.sleep(10)
    await broker.kill(5.0)
    assert await running == 0
    assert begun == [0.0, 15.0]
    assert broker.n_lives == 2


async def test_part_that_is_rebooted_comes_back_though_it_ended_well() -> None:
    """An end in good order that was asked for is not the end."""
    device, begun = part(0, 0)
    running = asyncio.ensure_future(device.run())
    await device.reboot(60.0)
    assert await running == 0
    assert begun == [0.0, 60.0]


async def test_kill_while_it_is_down_hits_the_next_life() -> None:
    """Two faults that overlap: nobody is killed twice in one life, and each counts."""
    broker, begun = part(0, 0, 0)
    running = asyncio.ensure_future(broker.run())
    await broker.kill(5.0)
    await broker.kill(2.0)
    assert await running == 0
    assert begun == [0.0, 5.0, 7.0]


@pytest.mark.parametrize(("killed", "lives"), [(None, 1), (30.0, 2)])
async def test_kill_by_somebody_else_is_the_end_unless_it_is_to_come_back(killed: float | None, lives: int) -> None:
    """A device that kills itself in mid-training comes back after its time; a broker that somebody kills does not."""
    device, begun = part(-signal.SIGKILL, 0, killed=killed)
    assert await device.run() == (0 if killed else -signal.SIGKILL)
    assert begun == [0.0, 130.0][:lives]
