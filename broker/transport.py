"""The Transport protocol: how anything of ours reaches a broker.

A `Transport` opens connections; a `Connection` lives once and dies once. Whoever holds one waits for its messages,
meets `TransportError` when the link is lost, throws it away and opens the next (`reconnect.py` says when). A fresh
object a connection is a must, not a taste: a re-used client re-sends what its caller has already sent again.

What a transport does not promise, on any broker: that a message whose publish returned arrives, that it arrives once,
or in order. `simulated.py` and `mqtt.py` keep this contract and one suite runs on both.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Connection", "Message", "Transport", "Will"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived."""

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, at QoS 1, when this connection dies without a goodbye."""

    topic: str
    payload: bytes
    retained: bool = True


class Connection(Protocol):
    """One life of a link to the broker."""

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        """Publish; at QoS 1 return once this hop has acknowledged it, which does not mean that anybody received it.

        Raises:
            TransportError: the link is gone; the message may or may not have arrived.
        """

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        """Subscribe in one packet and return once it is acknowledged. Retained messages follow.

        Raises:
            TransportError: the link is gone.
        """

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Unsubscribe in one packet.

        Raises:
            TransportError: the link is gone.
        """

    def messages(self) -> AsyncIterator[Message]:
        """Iterate over what arrives; to be consumed by one task, all the time.

        Raises:
            TransportError: the link is gone.
        """

    @property
    def max_payload_bytes(self) -> int | None:
        """Largest payload the broker says it takes; None: it says nothing."""


class Transport(Protocol):
    """A way to a broker for one client id."""

    def connect(self, *, will: Will | None = None) -> AbstractAsyncContextManager[Connection]:
        """Open a connection with a clean session; leaving the context says goodbye, so that no will is sent.

        Leaving it with an exception drops the link without a goodbye, and the broker publishes the will.

        Raises:
            TransportError: nobody there, or the link broke: try again. Its attribute `taken_over` says that another
                client with the same id has pushed this one out.
            CredentialsRefused: trying again changes nothing.
        """
