"""A transport that shows what is published on it, before it leaves.

Not here: what to make of it (`schedule_witness.py`).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from broker.transport import Connection, Transport, Will

__all__ = ["Show", "TappedTransport"]

Show: TypeAlias = Callable[[str, bytes], None]
"""Is shown topic and payload."""


class TappedTransport:
    """See `Transport`.

    Args:
        transport: that does the work.
        show: called before each publish.
    """

    def __init__(self, transport: Transport, show: Show) -> None:
        self._transport, self._show = transport, show

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        async with self._transport.connect(will=will) as connection:
            yield _Tapped(connection, self._show)


class _Tapped:
    """See `Connection`."""

    def __init__(self, connection: Connection, show: Show) -> None:
        self._connection, self._show = connection, show
        self.subscribe = connection.subscribe
        self.unsubscribe = connection.unsubscribe
        self.messages = connection.messages

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        self._show(topic, payload)
        await self._connection.publish(topic, payload, qos=qos, retained=retained)

    @property
    def max_payload_bytes(self) -> int | None:
        return self._connection.max_payload_bytes
