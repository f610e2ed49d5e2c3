import asyncio
import threading
from functools import partial

import pytest

from shared.blocking import Lane, Threads, at_once
from shared.task import TrainingCancelled


async def test_work_leaves_the_loop_and_brings_its_result_back() -> None:
    """It runs in a thread that is named for its lane."""
    with Threads() as run_blocking:
        name = await run_blocking(Lane.COMPUTE, lambda: threading.current_thread().name)
    assert name.startswith("fedmq-compute")
    assert threading.current_thread() is threading.main_thread()


async def test_one_lane_keeps_its_order_and_another_does_not_wait_for_it() -> None:
    """Journal rows are written in the order in which they were decided; training holds up nobody."""
    order: list[int] = []
    gate = threading.Event()
    with Threads() as run_blocking:
        held = asyncio.create_task(run_blocking(Lane.TRAINING, gate.wait), name="held")
        await asyncio.gather(*(run_blocking(Lane.JOURNAL, partial(order.append, i)) for i in range(50)))
        assert order == list(range(50))
        assert not held.done()
        gate.set()
        assert await held


@pytest.mark.parametrize("error", [ValueError("x"), TrainingCancelled()])
async def test_what_work_raises_arrives(error: BaseException) -> None:
    """`TrainingCancelled`, which is no `Exception`, too."""

    def fail() -> None:
        raise error

    with Threads() as run_blocking, pytest.raises(type(error)):
        await run_blocking(Lane.COMPUTE, fail)


async def test_a_stop_iteration_is_an_error_like_any() -> None:
    """`next` of an empty iterator in a user's task must not leave its caller waiting for ever."""
    with Threads() as run_blocking, pytest.raises(RuntimeError, match="StopIteration was raised"):
        await run_blocking(Lane.TRAINING, lambda: next(iter(())))


async def test_work_whose_caller_is_cancelled_is_done_all_the_same() -> None:
    """What was asked for before is neither lost while it runs nor while it waits."""
    done: list[str] = []
    gate, running = threading.Event(), threading.Event()

    def first() -> None:
        running.set()
        gate.wait()
        done.append("first")

    with Threads() as run_blocking:
        callers = [
            asyncio.create_task(run_blocking(Lane.DISK, first), name="first"),
            asyncio.create_task(run_blocking(Lane.DISK, lambda: done.append("second")), name="second"),
        ]
        await asyncio.get_running_loop().run_in_executor(None, running.wait)
        for caller in callers:
            caller.cancel()
        assert all(
            isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*callers, return_exceptions=True)
        )
        gate.set()
        await run_blocking(Lane.DISK, lambda: done.append("third"))
    assert done == ["first", "second", "third"]


async def test_closing_waits_for_what_runs() -> None:
    """After `close` no thread of ours is left."""
    with Threads() as run_blocking:
        await run_blocking(Lane.DISK, lambda: None)
    assert not [t for t in threading.enumerate() if t.name.startswith("fedmq-")]


async def test_who_has_no_loop_to_keep_free_does_the_work_itself() -> None:
    """No thread: what comes back was computed by the caller."""
    assert await at_once(Lane.COMPUTE, threading.get_ident) == threading.get_ident()
