"""A broker in memory, under the same contract as a real one, with misbehaviours that are switches.

It has MQTT's semantics as far as ours go: clean sessions, QoS 0 and 1, retained messages, wildcards, a will on
abnormal end and on take-over. Time passes only through `loop.time()` and the loop's timers, so it runs in real time
with perfect links and in virtual time with any. Everything random is drawn from one seed.

What it does not model: a link that is dead while one of its ends still believes in it (both ends learn of a cut in
the same instant), and the broker's own speed. No task per connection, and payloads are never copied.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from types import MappingProxyType
from typing import TypeAlias

from broker.faults import Faults
from broker.inbox import Inbox
from broker.link import LinkProfile
from broker.simulated_link import SimulatedLink
from broker.subscriptions import Subscriptions, TopicFilter, check_payload, check_topic
from broker.transport import Connection, Message, Transport, Will
from shared.errors import CredentialsRefused, FederationError, TransportError

__all__ = ["Faults", "SimulatedBroker"]

_Answer: TypeAlias = asyncio.Future[FederationError | None]
"""Set when the broker's acknowledgement is back; None: it has done what was asked."""

HEADER_BYTES = 10
"""What MQTT and TCP framing adds to topic and payload, roughly; also the size of an acknowledgement."""
CONNECT_TIMEOUT_S = 10.0
"""As long as a real transport waits for CONNACK, in seconds."""


class SimulatedBroker:
    """The broker. To be used within one event loop.

    Args:
        seed: of everything random, links included.
        faults: how it misbehaves; the attribute of the same name may be exchanged at any time.
    """

    def __init__(self, *, seed: int = 0, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self._seed = seed
        self._rng = Random(f"{seed}/broker")
        self._is_up = True
        self._connections: dict[str, _Connection] = {}
        self._subscriptions: Subscriptions[_Connection] = Subscriptions()
        self._retained: dict[str, bytes] = {}
        self._refused: set[str] = set()
        self._severed: set[str] = set()

    def transport(self, client_id: str, link: LinkProfile | None = None) -> Transport:
        """Return a way to this broker for one client id. Two with the same id push each other out.

        Args:
            client_id: as in MQTT's CONNECT.
            link: how bad the way is; None: as `faults.link` says. Its failures count from the first connect.
        """
        profile = self.faults.link if link is None else link
        return _SimulatedTransport(self, client_id, SimulatedLink(profile, f"{self._seed}/{client_id}"))

    @property
    def connected(self) -> frozenset[str]:
        """The ids of the clients that are connected now."""
        return frozenset(self._connections)

    @property
    def retained(self) -> Mapping[str, bytes]:
        """What is retained now, by topic; a view."""
        return MappingProxyType(self._retained)

    def stop(self) -> None:
        """Die: break every connection, send no wills, forget everything, and accept nobody until `start`."""
        self._is_up = False
        connections = list(self._connections.values())
        self._connections.clear()
        self._subscriptions.clear()
        self._retained.clear()
        for connection in connections:
            connection.filters.clear()
            connection.lose(TransportError("the broker is gone"))

    def start(self) -> None:
        """Accept connections again."""
        self._is_up = True

    def restart(self) -> None:
        """Die and come back at once, with nothing remembered."""
        self.stop()
        self.start()

    def cut(self, client_id: str, *, for_good: bool = False) -> None:
        """Break this client's connection, if it has one: its will is sent.

        Args:
            client_id: whose.
            for_good: its link stays down until `mend`; otherwise it may connect again at once.
        """
        if for_good:
            self._severed.add(client_id)
        connection = self._connections.get(client_id)
        if connection is not None:
            self._drop(connection, TransportError("the link was cut"))

    def mend(self, client_id: str) -> None:
        """Bring a link that was cut for good up again."""
        self._severed.discard(client_id)

    def refuse(self, client_id: str) -> None:
        """From now on refuse this client's credentials; what is connected stays."""
        self._refused.add(client_id)

    def admit(self, client_id: str) -> None:
        """Take back `refuse`."""
        self._refused.discard(client_id)

    def _accept(self, connection: "_Connection") -> None:
        """Begin a clean session; an older connection of the same id is pushed out, and its will sent."""
        if not self._is_up:
            raise TransportError("nobody listens")
        if connection.client_id in self._severed:
            raise TransportError("the link is down")
        if connection.client_id in self._refused:
            raise CredentialsRefused(f"the broker refuses client {connection.client_id!r}")
        older = self._connections.get(connection.client_id)
        if older is not None:
            self._drop(older, TransportError("another client with the same id has connected", taken_over=True))
        self._connections[connection.client_id] = connection

    def _drop(self, connection: "_Connection", error: TransportError) -> None:
        """End a session without a goodbye."""
        was_connected = self._connections.get(connection.client_id) is connection
        self._forget(connection)
        connection.lose(error)
        if was_connected and connection.will is not None:
            self._route(connection.will.topic, connection.will.payload, 1, connection.will.retained)

    def _forget(self, connection: "_Connection") -> None:
        if self._connections.get(connection.client_id) is connection:
            del self._connections[connection.client_id]
        self._subscriptions.remove(connection.filters, connection)
        connection.filters.clear()

    def _goodbye(self, connection: "_Connection") -> None:
        self._forget(connection)
        connection.passage.close()

    def _subscribe(self, connection: "_Connection", filters: Sequence[TopicFilter], qos: int) -> None:
        for topic_filter in filters:
            connection.filters[topic_filter.text] = None
            self._subscriptions.add(topic_filter, connection, qos)

    def _send_retained(self, connection: "_Connection", filters: Sequence[TopicFilter], qos: int) -> None:
        for topic_filter in filters:
            if topic_filter.is_wildcard:
                topics = [topic for topic in self._retained if topic_filter.matches(topic.split("/"))]
            else:
                topics = [topic_filter.text] if topic_filter.text in self._retained else []
            for topic in topics:
                self._deliver(connection, Message(topic, self._retained[topic], retained=True), qos)

    def _unsubscribe(self, connection: "_Connection", texts: Sequence[str]) -> None:
        self._subscriptions.remove(texts, connection)
        for text in texts:
            connection.filters.pop(text, None)

    def _route(self, topic: str, payload: bytes, qos: int, retained: bool) -> None:
        """Pass a message on; keep it when it is to be retained, an empty one deletes."""
        if retained and payload:
            self._retained[topic] = payload
        elif retained:
            self._retained.pop(topic, None)
        subscribers = self._subscriptions.subscribers(topic)
        if subscribers:
            message = Message(topic, payload)
            for connection, granted in subscribers.items():
                self._deliver(connection, message, min(qos, granted))

    def _deliver(self, connection: "_Connection", message: Message, qos: int) -> None:
        faults = self.faults
        if not faults.touch_deliveries:
            connection.send_down(message)
            return
        roll = self._rng.random
        if roll() < (faults.lose_acknowledged if qos else faults.lose_qos0):
            return
        for _ in range(2 if qos and roll() < faults.duplicate_qos1 else 1):
            if roll() < faults.reorder:
                connection.loop.call_later(self._rng.uniform(0.0, faults.reorder_s), connection.send_down, message)
            else:
                connection.send_down(message)


class _SimulatedTransport:
    """One client id and its link."""

    def __init__(self, broker: SimulatedBroker, client_id: str, link: SimulatedLink) -> None:
        self._broker = broker
        self._client_id = client_id
        self._link = link

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        connection = _Connection(self._broker, self._client_id, self._link, will)
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await connection.round_trip(0, partial(self._broker._accept, connection))
            except TimeoutError as error:
                raise TransportError(f"the broker did not answer within {CONNECT_TIMEOUT_S:g} s") from error
            yield connection
        except BaseException:
            self._broker._drop(connection, TransportError("the connection was left with an error"))
            raise
        connection.say_goodbye()


class _Connection:
    """One life of one client, seen from both ends."""

    def __init__(self, broker: SimulatedBroker, client_id: str, link: SimulatedLink, will: Will | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.client_id = client_id
        self.will = will
        self.filters: dict[str, None] = {}
        self.passage = link.open(self.loop, lambda cause: broker._drop(self, TransportError(cause)))
        self._broker = broker
        self._inbox = Inbox()
        self._pending: dict[_Answer, None] = {}

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        check_topic(topic)
        check_payload(payload, self.max_payload_bytes)
        route = partial(self._broker._route, topic, payload, qos, retained)
        if qos:
            await self.round_trip(len(topic) + len(payload), route)
        else:
            self._inbox.check()
            self.passage.up(HEADER_BYTES + len(topic) + len(payload), route)
            await asyncio.sleep(0)

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        filters = [TopicFilter(topic) for topic in topics]
        await self.round_trip(
            sum(map(len, topics)),
            partial(self._broker._subscribe, self, filters, qos),
            afterwards=partial(self._broker._send_retained, self, filters, qos),
        )

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self.round_trip(sum(map(len, topics)), partial(self._broker._unsubscribe, self, topics))

    def messages(self) -> AsyncIterator[Message]:
        return self._inbox

    @property
    def max_payload_bytes(self) -> int | None:
        return self._broker.faults.max_payload_bytes

    async def round_trip(
        self, n_bytes: int, act: Callable[[], object], *, afterwards: Callable[[], object] | None = None
    ) -> None:
        """Let the broker do `act`, and return when its acknowledgement is back; `afterwards` it goes on by itself."""
        self._inbox.check()
        done: _Answer = self.loop.create_future()
        self._pending[done] = None
        try:
            self.passage.up(HEADER_BYTES + n_bytes, partial(self._at_broker, act, afterwards, done))
            await asyncio.sleep(0)  # a perfect link, too, lets others run
            error = await done
        finally:
            del self._pending[done]
        if error is not None:
            self._inbox.check()
            raise error

    def _at_broker(
        self,
        act: Callable[[], object],
        afterwards: Callable[[], object] | None,
        done: _Answer,
    ) -> None:
        refusal = None
        try:
            act()
        except FederationError as error:
            refusal = error
        self.passage.down(HEADER_BYTES, partial(_settle, done, refusal))
        if afterwards is not None:
            afterwards()

    def send_down(self, message: Message) -> None:
        """Send a message towards the client."""
        if self._inbox.lost is None:
            n_bytes = HEADER_BYTES + len(message.topic) + len(message.payload)
            self.passage.down(n_bytes, partial(self._inbox.put, message))

    def lose(self, error: TransportError) -> None:
        """End this life: whoever waits learns of it."""
        self.passage.close()
        self._inbox.end(error)
        for pending in self._pending:
            _settle(pending, error)

    def say_goodbye(self) -> None:
        """End this life in good order; the broker learns of it when the word has arrived."""
        if self._inbox.lost is None:
            self._inbox.end(TransportError("the connection is closed"))
            self.passage.up(HEADER_BYTES, partial(self._broker._goodbye, self))


def _settle(future: _Answer, error: FederationError | None) -> None:
    if not future.done():  # its waiter may have been cancelled
        future.set_result(error)
