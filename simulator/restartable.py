"""A part of a fleet that is killed on schedule and started again, and whose own end is still noticed.

Not here: when it is killed, and what it is.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

__all__ = ["Life", "Restartable"]


class Life(Protocol):
    """One life of it."""

    async def ended(self) -> int:
        """Return the exit code once it has ended, however."""

    def kill(self) -> None:
        """End it as SIGKILL does."""

    def end(self) -> None:
        """Let it end in good order, as SIGTERM does."""


L = TypeVar("L", bound=Life)


class Restartable(Generic[L]):
    """Runs one life after the other. To be run once.

    Args:
        start: begins a life, the n-th, n from 1; the context is entered when it is up, and ends whatever is left of it.
        killed: what becomes of a life that somebody else has killed: seconds until the next; None: that was its end.
    """

    def __init__(self, start: Callable[[int], AbstractAsyncContextManager[L]], *, killed: float | None = None) -> None:
        self._start, self._down_s = start, killed
        self._killed_for_s: float | None = None
        self._up = asyncio.Event()
        self.life: L | None = None
        self.n_lives = 0

    async def run(self) -> int:
        """Live until a life ends by itself, and return its exit code; cancelling ends the life that is lived."""
        while True:
            self.n_lives += 1
            async with self._start(self.n_lives) as life:
                self.life = life
                self._up.set()
                code = await life.ended()
                self._up.clear()
            if self._killed_for_s is None and code == -signal.SIGKILL:
                self._killed_for_s = self._down_s
            if self._killed_for_s is None:
                return code
            await asyncio.sleep(self._killed_for_s)
            self._killed_for_s = None

    @property
    def is_up(self) -> bool:
        """Whether a life is lived, and nobody has ended it."""
        return self._up.is_set()

    async def up(self) -> L:
        """Return the life that is lived, once there is one."""
        await self._up.wait()
        assert self.life is not None
        return self.life

    async def kill(self, down_s: float) -> None:
        """Kill the life that is lived, or the next if there is none now; the one after it begins `down_s` later."""
        (await self._going_down(down_s)).kill()

    async def reboot(self, down_s: float) -> None:
        """As `kill`, but in good order."""
        (await self._going_down(down_s)).end()

    async def _going_down(self, down_s: float) -> L:
        life = await self.up()
        self._killed_for_s = down_s
        self._up.clear()
        return life
