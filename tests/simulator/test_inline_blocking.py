import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from shared.blocking import Lane
from shared.task import TrainingCancelled
from simulator.inline_blocking import COARSE, LATE, QUICK, InlineBlocking

pytestmark = pytest.mark.virtual_time


def _now() -> float:
    return asyncio.get_running_loop().time()


async def test_result_comes_after_a_delay_of_its_lane() -> None:
    """Work takes virtual time within the range of its lane."""
    run = InlineBlocking(Random(1), {Lane.TRAINING: (20.0, 30.0)})
    assert await run(Lane.TRAINING, lambda: "trained") == "trained"
    assert 20.0 <= _now() <= 30.0


async def test_error_comes_out_of_the_call() -> None:
    """What the work raises, cancelled training included, its caller meets."""
    run = InlineBlocking(Random(1))

    def cancelled() -> None:
        raise TrainingCancelled

    with pytest.raises(ZeroDivisionError):
        await run(Lane.COMPUTE, lambda: 1 / 0)
    with pytest.raises(TrainingCancelled):
        await run(Lane.TRAINING, cancelled)


async def test_lane_keeps_its_order_and_lanes_overlap() -> None:
    """Pieces of one lane run one after the other; another lane does not wait for them."""
    run = InlineBlocking(Random(1), {Lane.DISK: (1.0, 3.0), Lane.JOURNAL: (0.1, 0.2)})
    done: list[str] = []

    async def work(lane: Lane, name: str) -> None:
        await run(lane, lambda: done.append(name))

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(work(Lane.DISK, name))
        group.create_task(work(Lane.JOURNAL, "other"))
    assert [name for name in done if name != "other"] == ["a", "b", "c"]
    assert done[0] == "other" or done[1] == "other"
    assert 3.0 <= _now() <= 9.0


async def test_caller_that_is_cancelled_leaves_the_work_to_its_end() -> None:
    """Cancelling stops the waiting, not the work, and what queued behind it still runs."""
    run = InlineBlocking(Random(1), {Lane.DISK: (1.0, 1.0)})
    done: list[int] = []
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await run(Lane.DISK, lambda: done.append(1))
    await run(Lane.DISK, lambda: done.append(2))
    assert done == [1, 2]
    assert _now() == 2.0


async def test_crash_falls_before_or_after_the_work() -> None:
    """Closing in the middle of a piece's time finds it done for some seeds and not done for others; no later one is."""
    outcomes = set()
    for seed in range(20):
        run = InlineBlocking(Random(seed), {Lane.JOURNAL: (1.0, 1.0)})
        done: list[int] = []

        async def write(number: int, run: InlineBlocking = run, done: list[int] = done) -> None:
            await run(Lane.JOURNAL, lambda: done.append(number))

        process = asyncio.gather(write(1), write(2))
        await asyncio.sleep(0.5)
        process.cancel()
        run.close()
        await asyncio.sleep(5.0)
        outcomes.add(tuple(done))
    assert outcomes == {(), (1,)}


async def test_same_seed_takes_the_same_time() -> None:
    """Delays are a function of the random source alone."""
    times = []
    for _ in range(2):
        run = InlineBlocking(Random(7))
        begun = _now()
        for _ in range(5):
            await run(Lane.DISK, int)
        times.append(_now() - begun)
    assert times[0] == pytest.approx(times[1])


async def test_late_work_takes_long_and_keeps_its_order() -> None:
    """One piece in so many is late by seconds; what was asked for after it waits for it."""
    loop = asyncio.get_running_loop()
    blocking = InlineBlocking(Random(1), late=0.3)
    done: list[tuple[int, float]] = []

    async def one(i: int) -> None:
        before = loop.time()
        assert await blocking(Lane.DISK, lambda: i) == i
        done.append((i, loop.time() - before))

    for i in range(60):
        await one(i)
    late = [seconds for _, seconds in done if seconds > QUICK[Lane.DISK][1]]
    assert 8 <= len(late) <= 28
    assert all(LATE[0] <= seconds <= LATE[1] + 0.001 for seconds in late)
    done.clear()
    async with asyncio.TaskGroup() as group:
        for i in range(20):
            group.create_task(one(i))
    assert [i for i, _ in done] == list(range(20))


async def test_work_is_done_within_what_is_given() -> None:
    """Whoever owns the machine sees each call."""
    seen: list[object] = []

    def within(work: Callable[[], Any]) -> Any:
        seen.append(work())
        return seen[-1]

    assert await InlineBlocking(Random(1), within=within)(Lane.COMPUTE, lambda: 7) == 7
    assert seen == [7]


async def test_work_that_takes_no_time_is_done_at_once() -> None:
    """No timer, no turn of the loop: whoever asks has the result, or the error, before anybody else runs."""
    run, said = InlineBlocking(Random(1), COARSE), list[str]()
    asyncio.get_running_loop().call_soon(said.append, "another turn")
    assert await run(Lane.DISK, lambda: "read") == "read"
    with pytest.raises(ZeroDivisionError):
        await run(Lane.COMPUTE, lambda: 1 / 0)
    assert (said, _now()) == ([], 0.0)


async def test_process_that_dies_in_work_of_no_time_hears_no_more() -> None:
    """As in work that takes time: what killed it returns to nobody."""
    run = InlineBlocking(Random(1), COARSE)
    with pytest.raises(asyncio.CancelledError):
        await run(Lane.DISK, run.close)


async def test_late_disk_is_never_timeless() -> None:
    """A fleet whose disks may be slow has all of its races, whatever its usual delays are."""
    run = InlineBlocking(Random(1), COARSE, late=1.0)
    await run(Lane.DISK, lambda: None)
    assert LATE[0] <= _now() <= LATE[1]
