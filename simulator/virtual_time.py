"""An event loop whose clock jumps to the next timer, so that an hour of a fleet takes as long as its computing.

Nothing is awaited in real time: when no callback is ready the clock is set to the next timer. When there is no timer
either, the program would wait for ever, and `InvalidState` says so at once. `asyncio.timeout`, `TaskGroup`, `wait_for`
and `sleep` work as they are.

Not supported, for their time is real: threads (`run_in_executor` and `asyncio.to_thread` are refused; use
`InlineBlocking` where a service takes a `RunBlocking`), sockets, subprocesses, and signal handlers, which never fire.
"""

import asyncio
import math
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, Never, TypeVar

from shared.errors import InvalidState

__all__ = ["VirtualTimeLoop", "run_in_virtual_time"]

T = TypeVar("T")

CLOCK_RESOLUTION_S = 1e-6
"""Timers this close are due together. With the default, 1 ns, the loop would spin once the time is so large that a
float cannot hold the nanosecond (cpython #116342)."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at time 0.0 and never waits.

    Args:
        limit_s: virtual seconds after which `InvalidState` is raised, once.
    """

    def __init__(self, *, limit_s: float = math.inf) -> None:
        self._now = 0.0
        self._limit_s = limit_s
        super().__init__(_JumpingSelector(self))
        self._clock_resolution = CLOCK_RESOLUTION_S

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

    def run_in_executor(self, executor: object, func: object, *args: object) -> Never:
        """Refuse: a thread takes real time.

        Raises:
            InvalidState: always.
        """
        raise InvalidState(f"{func!r} in a thread: virtual time cannot wait for it; use InlineBlocking")


class _JumpingSelector(selectors.BaseSelector):
    """Waits for nothing: passing time is the loop's affair. Files may be registered, and are never ready."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, descriptor, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.jump(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


def run_in_virtual_time(coroutine: Coroutine[Any, Any, T], *, limit_s: float = math.inf, debug: bool = False) -> T:
    """Run a coroutine to its end on a loop of its own, and return what it returns.

    Args:
        coroutine: what to run.
        limit_s: virtual seconds it may take.
        debug: asyncio's debug mode, about four times slower.

    Raises:
        InvalidState: it hangs, or is not finished in time.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit_s=limit_s), debug=debug) as runner:
        return runner.run(coroutine)
