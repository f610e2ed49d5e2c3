"""An event loop whose clock jumps to the next timer, so that an hour of a fleet takes as long as its computing.

Nothing is awaited in real time: when no callback is ready the clock is set to the next timer. When there is no timer
either, the program would wait for ever, and `InvalidState` says so at once. `asyncio.timeout`, `TaskGroup`, `wait_for`
and `sleep` work as they are.

Not supported, for their time is real: threads (`run_in_executor` and `asyncio.to_thread` are refused; use
`InlineBlocking` where a service takes a `RunBlocking`), sockets, subprocesses, and signal handlers, which never fire.
"""

import asyncio
import gc
import heapq
import math
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Never, TypeVar, TypeVarTuple, Unpack

from shared.errors import InvalidState

__all__ = ["COLLECT_EVERY", "VirtualTimeLoop", "run_in_virtual_time"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLOCK_RESOLUTION_S = 1e-6
"""Timers this close are due together: once the time is large, a float cannot hold the nanosecond."""


COLLECT_EVERY = (50_000, 20, 50)
"""Thresholds of the garbage collector: at the usual (700, 10, 10) a sixth of a fleet's time goes into it."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at time 0.0 and never waits.

    Args:
        limit_s: virtual seconds after which `InvalidState` is raised, once.
    """

    hold: Callable[[float], None] | None = None
    """Called before the clock is set forward, with the time it is to be set to: may wait, in real time, for what others
    compute meanwhile, and set timers for later than now; the clock then goes to the first of all."""
    _ready: deque[asyncio.Handle]  # of `asyncio`, as are the next
    _stopping: bool
    _debug: bool
    _closed: bool

    def __init__(self, *, limit_s: float = math.inf) -> None:
        self._now = 0.0
        self._limit_s = limit_s
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._n_timers = 0
        super().__init__(_NoSelector())

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def jump(self, timeout_s: float | None) -> None:
        """Pass the time that a real loop would spend in `select`.

        Args:
            timeout_s: seconds until the next timer; None when there is none.

        Raises:
            InvalidState: there is no timer, or the limit has passed.
        """
        if timeout_s is None:
            raise InvalidState(f"hung protocol at {self._now:.6f} s: nothing is ready and no timer is set")
        self._now += max(timeout_s, 0.0)
        if self._now > self._limit_s:
            limit_s, self._limit_s = self._limit_s, math.inf  # what is cancelled now may still need time to end
            raise InvalidState(f"not finished after {limit_s:g} s of virtual time")

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.AbstractEventLoop`; there are no threads here whose calls would have to be noticed."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.AbstractEventLoop`; timers that are due at the same time keep their order."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self.ticket(), handle))
        return handle

    @property
    def n_timers(self) -> int:
        """How many timers were set so far."""
        return self._n_timers

    def ticket(self) -> int:
        """Return a place among timers of the same time, for one that is set later (`call_at_ticket`)."""
        self._n_timers += 1
        return self._n_timers

    def call_at_ticket(
        self, ticket: int, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts
    ) -> asyncio.TimerHandle:
        """Do as `call_at`, as if it had been called when the ticket was drawn."""
        handle = asyncio.TimerHandle(when, callback, args, self)
        heapq.heappush(self._timers, (when, ticket, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: it is thrown away when its time comes."""

    def _run_once(self) -> None:
        """One turn, as `asyncio` does it but for the waiting: half of what a simulated fleet costs is turns."""
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if self.hold is not None:
                self.hold(timers[0][0] if timers else math.inf)
                while timers and timers[0][2].cancelled():
                    heapq.heappop(timers)
            self.jump(timers[0][0] - self._now if timers else None)
        due = self._now + CLOCK_RESOLUTION_S
        while timers and timers[0][0] < due:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()

    def run_in_executor(self, executor: object, func: object, *args: object) -> Never:
        """Refuse: a thread takes real time.

        Raises:
            InvalidState: always.
        """
        raise InvalidState(f"{func!r} in a thread: virtual time cannot wait for it; use InlineBlocking")


class _NoSelector(selectors.BaseSelector):
    """Nobody selects: passing time is the loop's affair. Files may be registered, and are never ready."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, descriptor, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Let Python look for cycles less often: in a large fleet hardly anything that a turn makes is one."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T], *, limit_s: float = math.inf, debug: bool = False) -> T:
    """Run a coroutine to its end on a loop of its own, and return what it returns.

    Args:
        coroutine: what to run.
        limit_s: virtual seconds it may take.
        debug: asyncio's debug mode, about four times slower.

    Raises:
        InvalidState: it hangs, or is not finished in time.
    """
    with (
        _rare_collections(),
        asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit_s=limit_s), debug=debug) as runner,
    ):
        return runner.run(coroutine)
