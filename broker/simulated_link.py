"""The link beneath a simulated connection: things take time on it, keep their order, and now and then it fails.

A link belongs to a client and outlives its connections; its failures go on while nobody is connected, but a timer
runs only while somebody is, so that a loop in virtual time still notices a program in which nothing will ever happen.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from broker.link import Flow, LinkEventKind, LinkProfile, link_events
from shared.errors import TransportError

__all__ = ["Passage", "SimulatedLink"]

Act: TypeAlias = Callable[..., object]


class _Pipe:
    """One direction of one connection."""

    __slots__ = ("_flow", "_loop", "_queue", "_timer", "is_stalled")

    def __init__(self, loop: asyncio.AbstractEventLoop, flow: Flow) -> None:
        self._loop = loop
        self._flow = flow
        self._queue: deque[tuple[float, Act, tuple[Any, ...]]] = deque()
        # One timer for the whole queue: the loop does not keep the order of timers that are due at the same time.
        self._timer: asyncio.TimerHandle | None = None
        self.is_stalled = False

    def send(self, n_bytes: int, act: Act, arguments: tuple[Any, ...]) -> None:
        self._queue.append((self._flow.arrival(n_bytes, self._loop.time()), act, arguments))
        if self._timer is None:
            self.arm()

    def arm(self) -> None:
        if self._queue and self._timer is None and not self.is_stalled:
            self._timer = self._loop.call_at(self._queue[0][0], self._drain)

    def close(self) -> None:
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drain(self) -> None:
        self._timer = None
        queue = self._queue
        now = max(self._loop.time(), queue[0][0])  # a loop may call up to its clock's resolution too early
        while queue and queue[0][0] <= now and not self.is_stalled:
            _, act, arguments = queue.popleft()
            act(*arguments)
        self.arm()


class Passage:
    """One connection's use of a link: whatever is sent is done at the other end when it arrives.

    To be closed by whoever opened it; what is still under way is lost then.
    """

    __slots__ = ("_down", "_link", "_up", "broken")

    def __init__(self, link: "SimulatedLink", pipes: tuple[_Pipe, _Pipe] | None, broken: Callable[[str], None]) -> None:
        self._link = link
        self._up: _Pipe | None = pipes[0] if pipes else None
        self._down: _Pipe | None = pipes[1] if pipes else None
        self.broken = broken

    @property
    def takes_time(self) -> bool:
        """Whether anything on it may arrive later than at once."""
        return self._up is not None

    def count(self, up: int, down: int) -> None:
        """Note bytes that go both ways at once."""
        self._link.bytes_up += up
        self._link.bytes_down += down

    def up(self, n_bytes: int, act: Act, *arguments: object) -> None:
        """Do `act` when `n_bytes` have reached the broker."""
        self._link.bytes_up += n_bytes
        if self._up is None:
            act(*arguments)
        else:
            self._up.send(n_bytes, act, arguments)

    def down(self, n_bytes: int, act: Act, *arguments: object) -> None:
        """Do `act` when `n_bytes` have reached the client."""
        self._link.bytes_down += n_bytes
        if self._down is None:
            act(*arguments)
        else:
            self._down.send(n_bytes, act, arguments)

    def stall(self, is_stalled: bool) -> None:
        """Hold everything, or let it go on."""
        for pipe in (self._up, self._down):
            if pipe is not None:
                pipe.is_stalled = is_stalled
                pipe.arm()

    def close(self) -> None:
        """Lose what is under way and leave the link. May be called again."""
        for pipe in (self._up, self._down):
            if pipe is not None:
                pipe.close()
        self._link.leave(self)


class SimulatedLink:
    """One client's way to the broker.

    Args:
        profile: how bad it is.
        seed: of its jitter and of its failures, which count from the first use.
    """

    def __init__(self, profile: LinkProfile, seed: str) -> None:
        self._profile = profile
        self.bytes_up = self.bytes_down = 0
        """What was put on it so far; counted by whoever sends."""
        self._rng = Random(f"{seed}/jitter")
        self._events = link_events(profile, seed)
        self._next = next(self._events, None)
        self._first_used_at: float | None = None
        self._is_down = False
        self._is_stalled = False
        self._passages: dict[Passage, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self, loop: asyncio.AbstractEventLoop, broken: Callable[[str], None]) -> Passage:
        """Begin a connection; `broken` is called once, with the cause, if the link breaks it.

        Raises:
            TransportError: the link is down.
        """
        self._catch_up(loop.time())
        if self._is_down:
            raise TransportError("the link is down")
        profile = self._profile
        flows = (profile.up(self._rng), profile.down(self._rng)) if profile.takes_time else None
        passage = Passage(self, flows and (_Pipe(loop, flows[0]), _Pipe(loop, flows[1])), broken)
        passage.stall(self._is_stalled)
        self._passages[passage] = None
        self._arm(loop)
        return passage

    def leave(self, passage: Passage) -> None:
        """Forget a passage."""
        self._passages.pop(passage, None)
        if not self._passages and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and self._next is not None and self._passages:
            assert self._first_used_at is not None
            self._timer = loop.call_at(self._first_used_at + self._next.at_s, self._on_timer, loop)

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        assert self._first_used_at is not None
        assert self._next is not None
        self._catch_up(max(loop.time(), self._first_used_at + self._next.at_s))
        self._arm(loop)

    def _catch_up(self, now: float) -> None:
        if self._first_used_at is None:
            self._first_used_at = now
        while self._next is not None and self._first_used_at + self._next.at_s <= now:
            kind = self._next.kind
            self._next = next(self._events, None)
            match kind:
                case LinkEventKind.DOWN | LinkEventKind.UP:
                    self._is_down = kind is LinkEventKind.DOWN
                case LinkEventKind.STALL | LinkEventKind.RESUME:
                    self._is_stalled = kind is LinkEventKind.STALL
                    for passage in list(self._passages):
                        passage.stall(self._is_stalled)
                case LinkEventKind.RESET:
                    pass
            if kind in (LinkEventKind.DOWN, LinkEventKind.RESET):
                for passage in list(self._passages):
                    passage.broken("the link went down" if self._is_down else "the link was reset")
