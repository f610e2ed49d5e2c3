"""Opening the link again and again, for ever, with fresh connections and full jitter.

One log line a failed attempt says when the next one is due. Refused credentials end it: trying again changes nothing.

Not here: what happens on a connection (`session.py`), how long to wait (`broker/reconnect.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from broker.reconnect import Reconnect
from broker.transport import Connection, Transport, Will
from shared.errors import TransportError

__all__ = ["Link", "instant_in"]


def instant_in(seconds: float) -> str:
    """Return the date and time of day so many seconds from now, as a person reads it in a log."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


class Link:
    """The way to the broker.

    Args:
        transport: opens connections.
        reconnect: says how long to wait.
        ended: set when no further connection is wanted.
    """

    def __init__(self, transport: Transport, reconnect: Reconnect, ended: asyncio.Event) -> None:
        self._transport, self._reconnect, self._ended = transport, reconnect, ended
        self._stay_away_s, self._why = 0.0, ""
        self.connection = 0
        """Counts attempts, from 1."""
        self._log = structlog.get_logger()

    def stay_away(self, seconds: float, why: str) -> None:
        """Do not connect before so many seconds after the present connection has ended; the log then says why."""
        self._stay_away_s, self._why = seconds, why

    async def keep(
        self,
        live: Callable[[Connection], Awaitable[None]],
        *,
        will: Callable[[], Will],
        on_lost: Callable[[TransportError], None],
        window_s: Callable[[], float],
    ) -> None:
        """Open connections until `ended` is set.

        Args:
            live: lives through one connection; returning says goodbye.
            will: of the next connection.
            on_lost: called after each connection that stood.
            window_s: over which the fleet spreads its return after a loss, in seconds.

        Raises:
            CredentialsRefused: the broker refuses who we are.
        """
        while not self._ended.is_set():
            self.connection += 1
            has_stood, lost = False, TransportError("left in good order")
            try:
                async with self._transport.connect(will=will()) as connection:
                    has_stood = True
                    await live(connection)
            except TransportError as error:
                lost = error
            finally:
                if has_stood:
                    on_lost(lost)
            if self._ended.is_set():
                return
            if self._stay_away_s:
                await self._wait("staying_away", self._why, self._stay_away_s)
            elif has_stood:
                await self._wait("connection_lost", str(lost), self._reconnect.after_loss(window_s()))
            else:
                await self._wait("broker_unreachable", str(lost), self._reconnect.after_failure())

    async def _wait(self, what: str, cause: str, wait_s: float) -> None:
        self._stay_away_s = 0.0
        self._log.warning(
            what,
            cause=cause,
            attempt=self._reconnect.attempts,
            next_attempt_in_s=round(wait_s, 1),
            next_attempt_at=instant_in(wait_s),
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._ended.wait()
