"""What has arrived on one connection and was not consumed yet.

Unbounded on purpose: a bounded queue would have to drop what its publisher believes delivered. The protocol bounds
what may be on its way instead (grants, one lease a device).
"""

import asyncio
from collections import deque
from typing import Self

from broker.transport import Message
from shared.errors import TransportError

__all__ = ["Inbox"]


class Inbox:
    """An asynchronous iterator for one consumer; ends with the error of the link, after what came before it."""

    __slots__ = ("_arrival", "_lost", "_messages")

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._lost: TransportError | None = None

    @property
    def lost(self) -> TransportError | None:
        """Why nothing more will come; None while the link lives."""
        return self._lost

    def put(self, message: Message) -> None:
        """Add a message; after the end it is ignored."""
        if self._lost is None:
            self._messages.append(message)
            self._wake()

    def end(self, error: TransportError) -> None:
        """Let the consumer raise `error` when it has taken everything. The first error stays."""
        if self._lost is None:
            self._lost = error
            self._wake()

    def check(self) -> None:
        """Raise the error of the link, if it has one."""
        if self._lost is not None:
            # a fresh one each time: many callers raise it, each with its own traceback
            raise TransportError(self._lost.what, taken_over=self._lost.taken_over)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            self.check()
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        return self._messages.popleft()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
