"""The one seam through which anything over 5 ms leaves the event loop.

Digests, decoding, folding, fsync, SQLite and training all go through `RunBlocking`. On a machine it is a thread a
lane; the simulator computes inline and completes after a seeded virtual delay, so that the races of the real thing
exist there too.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Protocol, Self, TypeVar

__all__ = ["Lane", "RunBlocking", "Threads", "at_once"]

T = TypeVar("T")


class Lane(StrEnum):
    """Work of one lane runs one piece after the other, in the order in which it was asked for."""

    JOURNAL = "journal"
    DISK = "disk"
    COMPUTE = "compute"
    TRAINING = "training"


class RunBlocking(Protocol):
    """Runs a function away from the event loop."""

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises.

        A caller that is cancelled stops waiting; the work itself goes on to its end.
        """


class Threads:
    """One thread a lane, started when first used. To be closed: it waits for what is running."""

    def __init__(self) -> None:
        self._executors: dict[Lane, ThreadPoolExecutor] = {}

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        """See `RunBlocking`."""
        executor = self._executors.get(lane)
        if executor is None:
            executor = self._executors[lane] = ThreadPoolExecutor(1, thread_name_prefix=f"fedmq-{lane}")
        # without the shield, cancelling the caller would take work off the queue that has not begun
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(executor, _without_stop, work))

    def close(self) -> None:
        """Wait for running work, drop what has not begun, end the threads."""
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def at_once(lane: Lane, work: Callable[[], T]) -> T:
    """See `RunBlocking`: for whoever has no event loop to keep free, such as a command that only computes."""
    return work()


def _without_stop(work: Callable[[], T]) -> T:
    try:
        return work()
    except StopIteration as error:  # a future cannot hold it: whoever waits would wait for ever
        raise RuntimeError("StopIteration was raised") from error
