"""What both sides of the fuzzer share: a payload, a world that takes it, and lanes that tell waiting from computing."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol, TypeVar

from shared.blocking import Lane
from simulator.inline_blocking import InlineBlocking

__all__ = ["MeteredBlocking", "Payload", "World"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Payload:
    """One message as a broker would deliver it."""

    topic: str
    data: bytes
    retained: bool = False


class World(Protocol):
    """One side of the protocol, alive, and a source of payloads that are right or nearly right for its state."""

    name: str
    counts: Counter[str]
    """What became of payloads, by reason."""

    def draw(self) -> Payload:
        """Return the next payload; a function of the seed and of all that came before."""

    async def take(self, payload: Payload) -> None:
        """Let it arrive, and let the world get as far with it as it will."""

    def check(self) -> None:
        """Raise when a promise that should hold after every payload is broken."""

    def check_books(self) -> None:
        """Recount everything; too dear for every payload."""

    async def close(self) -> None:
        """End; raises what had ended it before."""


class MeteredBlocking:
    """Lanes in virtual time that know what the disk took of them: on a machine no loop waits for that.

    Args:
        rng: where the delays come from.
    """

    def __init__(self, rng: Random) -> None:
        self._lanes = InlineBlocking(rng)
        self.disk_s = 0.0
        """Seconds of computing in the lane DISK so far."""

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        """See `RunBlocking`."""
        return await self._lanes(lane, partial(self._timed, work) if lane is Lane.DISK else work)

    def _timed(self, work: Callable[[], T]) -> T:
        begun = time.thread_time()
        try:
            return work()
        finally:
            self.disk_s += time.thread_time() - begun
