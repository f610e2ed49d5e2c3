import asyncio
import gc
import math
import time
from itertools import count

import pytest

from shared.errors import InvalidState
from simulator.virtual_time import COLLECT_EVERY, VirtualTimeLoop, run_in_virtual_time

pytestmark = pytest.mark.virtual_time(limit_s=math.inf)

YEAR_S = 365 * 24 * 3600.0


def _now() -> float:
    return asyncio.get_running_loop().time()


async def test_sleep_of_a_year_takes_no_time() -> None:
    """The clock jumps, and shows exactly the time that was asked for."""
    assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
    begun = time.monotonic()
    await asyncio.sleep(YEAR_S)
    assert _now() == pytest.approx(YEAR_S)
    assert time.monotonic() - begun < 5.0


async def test_timers_fire_in_order_of_their_time() -> None:
    """Sleepers wake in the order of their times, each at its own."""
    woken: list[tuple[int, float]] = []

    async def sleeper(number: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((number, _now()))

    async with asyncio.TaskGroup() as group:
        for number, seconds in enumerate([3.0, 1.0, 2.0]):
            group.create_task(sleeper(number, seconds))
    assert woken == [(1, 1.0), (2, 2.0), (0, 3.0)]


async def test_timeout_ends_what_takes_longer() -> None:
    """`asyncio.timeout` and `wait_for` fire at their virtual time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5.0):
            await asyncio.sleep(10.0)
    assert _now() == 5.0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 7.0)
    assert _now() == 12.0


async def test_timeout_spares_what_is_quicker() -> None:
    """A timeout that is not reached leaves neither an error nor a jump of the clock behind."""
    async with asyncio.timeout(3600.0):
        await asyncio.sleep(1.0)
    assert _now() == 1.0


async def test_small_steps_at_a_large_time_do_not_spin() -> None:
    """A thousand milliseconds after a century cost a thousand jumps, not a busy loop."""
    await asyncio.sleep(100 * YEAR_S)
    for _ in range(1000):
        await asyncio.sleep(0.001)
    assert _now() == pytest.approx(100 * YEAR_S + 1.0)


async def test_thread_is_refused() -> None:
    """A thread's time is real, so asking for one is our own mistake."""
    with pytest.raises(InvalidState, match="InlineBlocking"):
        await asyncio.to_thread(int)


class TestRunInVirtualTime:
    # These are synchronous: the loop of the test itself must not be running.

    def test_result_is_returned(self) -> None:
        """What the coroutine returns comes back."""

        async def answer() -> float:
            await asyncio.sleep(1e6)
            return _now()

        assert run_in_virtual_time(answer()) == 1e6

    def test_deadlock_is_an_error_at_once(self) -> None:
        """Nothing ready and no timer: a hung protocol is caught, and says when it hung."""

        async def hang() -> None:
            await asyncio.sleep(2.5)
            await asyncio.Event().wait()

        with pytest.raises(InvalidState, match=r"hung protocol at 2\.5"):
            run_in_virtual_time(hang())

    def test_limit_is_an_error_and_cleaning_up_still_runs(self) -> None:
        """A program that goes on for ever is stopped at the limit, and may still take time to end."""
        ended_at = []

        async def endless() -> None:
            try:
                for _ in count():
                    await asyncio.sleep(7.0)
            finally:
                await asyncio.sleep(50.0)
                ended_at.append(_now())

        with pytest.raises(InvalidState, match="not finished after 100 s"):
            run_in_virtual_time(endless(), limit_s=100.0)
        assert ended_at == [155.0]


async def test_timers_of_one_time_keep_their_order() -> None:
    """First asked for, first called; cancelled ones are not called."""
    loop = asyncio.get_running_loop()
    called: list[int] = []
    timers = [loop.call_at(5.0, called.append, i) for i in range(20)]
    for timer in timers[::3]:
        timer.cancel()
    await asyncio.sleep(6.0)
    assert called == [i for i in range(20) if i % 3]


def test_rare_collections_end_with_the_loop() -> None:
    """A program that simulates a fleet collects garbage as before once it is over, even where that has failed."""
    before = gc.get_threshold()

    async def fails() -> None:
        assert gc.get_threshold() == COLLECT_EVERY
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_virtual_time(fails())
    assert gc.get_threshold() == before
