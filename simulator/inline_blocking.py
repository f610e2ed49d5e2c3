"""Blocking work in virtual time: computed on the loop, and done after a seeded delay.

The delay is what keeps the races of the real thing: while a digest is "computed", messages arrive, timers fire and
services are killed. Work of one lane runs one piece after the other, in the order in which it was asked for. What a
piece of work does, it does at one seeded instant of its time; a crash may fall before or after it.

Not here: threads (`shared.blocking.Threads`).
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any, TypeAlias, TypeVar

from shared.blocking import Lane

__all__ = ["COARSE", "LATE", "QUICK", "DelayRange", "InlineBlocking"]

T = TypeVar("T")

DelayRange: TypeAlias = tuple[float, float]
"""Least and most seconds that a piece of work takes."""

QUICK: Mapping[Lane, DelayRange] = {
    Lane.JOURNAL: (0.001, 0.01),  # an SQLite commit takes about 3 ms
    Lane.DISK: (0.0005, 0.005),
    Lane.COMPUTE: (0.0005, 0.01),
    Lane.TRAINING: (0.5, 2.0),
}
"""A small model on a healthy machine."""
COARSE: Mapping[Lane, DelayRange] = {Lane.JOURNAL: (0.02, 0.05), Lane.DISK: (0.0, 0.0), Lane.COMPUTE: (0.0, 0.0)}
"""Where milliseconds do not matter. What takes no time costs neither a timer nor a turn of the loop, and all rows that
come while a slow disk commits are the next commit: each costs the machine that simulates a real synchronisation."""

LATE: DelayRange = (0.5, 30.0)
"""A disk that was asleep, a machine that swaps; drawn log-uniformly."""


class _Piece:
    """One piece of work and whoever waits for it."""

    __slots__ = ("done", "work")

    def __init__(self, work: Callable[[], Any], done: "asyncio.Future[Any]") -> None:
        self.work = work
        self.done = done


class InlineBlocking:
    """`shared.blocking.RunBlocking` without threads. One object for each simulated process.

    Args:
        rng: where the delays come from.
        delays: seconds that work takes, by lane; lanes that are missing take those of `QUICK`. What takes no time
            is done at once, and nothing else happens meanwhile.
        late: probability that a piece of work takes as long as `LATE` says instead.
        within: makes the calls, such as `Machine.work`.
    """

    def __init__(
        self,
        rng: Random,
        delays: Mapping[Lane, DelayRange] | None = None,
        *,
        late: float = 0.0,
        within: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self._rng = rng
        self._delays = {**QUICK, **(delays or {})}
        self._late = late
        self._instant = frozenset(lane for lane, (_, most_s) in self._delays.items() if most_s == 0 and not late)
        self._within = within
        self._queues: dict[Lane, deque[_Piece]] = {}
        self._timers: dict[Lane, asyncio.TimerHandle] = {}
        self._is_closed = False

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        """See `RunBlocking`."""
        if self._is_closed:  # asked for while its process is being killed: there is no more of it
            raise asyncio.CancelledError
        if lane in self._instant:
            result: T = work() if self._within is None else self._within(work)
            if self._is_closed:  # the work itself was the end of this process
                raise asyncio.CancelledError
            return result
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(lane, deque())
        queue.append(_Piece(work, done))
        if len(queue) == 1:
            self._begin(lane)
        return await done

    @property
    def is_closed(self) -> bool:
        """Whether its process is dead."""
        return self._is_closed

    def close(self) -> None:
        """Crash: what was not computed yet never is, and nobody hears of what was."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._queues.clear()

    def _begin(self, lane: Lane) -> None:
        takes_s = self._takes_s(lane)
        before_s = self._rng.uniform(0.0, takes_s)
        loop = asyncio.get_running_loop()
        self._timers[lane] = loop.call_later(before_s, self._compute, lane, takes_s - before_s)

    def _takes_s(self, lane: Lane) -> float:
        if self._late and self._rng.random() < self._late:
            return math.exp(self._rng.uniform(*map(math.log, LATE)))
        return self._rng.uniform(*self._delays[lane])

    def _compute(self, lane: Lane, after_s: float) -> None:
        """Do the work at the head of the lane; the loop is told of its result later."""
        piece = self._queues[lane][0]
        try:
            result = piece.work() if self._within is None else self._within(piece.work)
            settle = partial(piece.done.set_result, result)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # TrainingCancelled is one: whatever it is, it is the caller's
            settle = partial(piece.done.set_exception, error)
        if not self._is_closed:  # the work itself may have been the end of this process
            self._timers[lane] = asyncio.get_running_loop().call_later(after_s, self._end, lane, settle)

    def _end(self, lane: Lane, settle: Callable[[], None]) -> None:
        queue = self._queues[lane]
        piece = queue.popleft()
        if not piece.done.done():  # its caller may have been cancelled
            settle()
        if queue:
            self._begin(lane)
