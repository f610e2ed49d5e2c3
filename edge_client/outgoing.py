"""What waits for the link: at most one message a topic, the newest, in the order in which topics came first.

A check-in or a status that is still waiting when the next is due would only mislead; so the queue is bounded by the
number of topics, and what is full is replaced.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from broker.transport import Connection

__all__ = ["Outgoing"]

Send: TypeAlias = Callable[[Connection], Awaitable[None]]


class Outgoing:
    """A mailbox for one connection."""

    def __init__(self) -> None:
        self._waiting: dict[str, Send] = {}
        self._has_mail = asyncio.Event()

    def put(self, key: str, send: Send) -> None:
        """Send this as soon as the link is free, in place of what waits under the same key."""
        self._waiting[key] = send
        self._has_mail.set()

    async def deliver(self, connection: Connection) -> None:
        """Send what there is and what comes, one after the other, until cancelled.

        Raises:
            TransportError: the link is gone.
        """
        while True:
            await self._has_mail.wait()
            self._has_mail.clear()
            while self._waiting:
                key = next(iter(self._waiting))
                await self._waiting.pop(key)(connection)
