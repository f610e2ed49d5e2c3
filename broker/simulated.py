"""A broker in memory, under the same contract as a real one, with misbehaviours that are switches.

It has MQTT's semantics as far as ours go: clean sessions, QoS 0 and 1, retained messages, wildcards, a will on
abnormal end and on take-over. Time passes only through `loop.time()` and the loop's timers, so it runs in real time
with perfect links and in virtual time with any. Everything random is drawn from one seed.

What it does not model: a link that is dead while one of its ends still believes in it (both ends learn of a cut in
the same instant), and the broker's own speed. No task per connection, and payloads are never copied.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TypeAlias

from broker.crashes import Crashes
from broker.faults import Faults
from broker.inbox import Inbox
from broker.link import LinkProfile
from broker.misdelivery import Backlog, Misdelivery
from broker.retained_store import RetainedStore
from broker.simulated_link import SimulatedLink
from broker.subscriptions import Subscriptions, TopicFilter, check_payload, check_topic, filter_of
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

    Attributes:
        struck: how often each switch of the faults has struck, by its name.
    """

    def __init__(self, *, seed: int = 0, faults: Faults | None = None) -> None:
        self.struck: Counter[str] = Counter()
        self._seed = seed
        self._rng = Random(f"{seed}/broker")
        self._crashes = Crashes(Random(f"{seed}/crashes"), self._crash, self.start)
        self._is_up = True
        self._n_deaths = 0
        self._connections: dict[str, _Connection] = {}
        self._links: dict[str, SimulatedLink] = {}
        self._subscriptions: Subscriptions[_Connection] = Subscriptions()
        self._retained = RetainedStore()
        self._refused: set[str] = set()
        self._severed: set[str] = set()
        self.faults = faults or Faults()

    @property
    def faults(self) -> Faults:
        """How it misbehaves from now on."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._misdelivery = Misdelivery(faults, self._rng, self.struck) if faults.touch_deliveries else None
        if self._is_up:
            self._crashes.disarm()
        if self._connections:
            self._crashes.arm(faults)

    def transport(self, client_id: str, link: LinkProfile | None = None) -> Transport:
        """Return a way to this broker for one client id. Two with the same id push each other out.

        Args:
            client_id: as in MQTT's CONNECT.
            link: how bad the way is; None: as `faults.link` says. Its failures count from the first connect.
        """
        profile = self.faults.link if link is None else link
        way = self._links[client_id] = SimulatedLink(profile, f"{self._seed}/{client_id}")
        return _SimulatedTransport(self, client_id, way)

    def bytes_of(self, client_id: str) -> tuple[int, int]:
        """Return how many bytes a client has sent and was sent, repeats and what was lost on the way included."""
        return (way.bytes_up, way.bytes_down) if (way := self._links.get(client_id)) else (0, 0)

    @property
    def connected(self) -> frozenset[str]:
        """The ids of the clients that are connected now."""
        return frozenset(self._connections)

    @property
    def retained(self) -> Mapping[str, bytes]:
        """What is retained now, by topic; a view."""
        return self._retained.view

    def stop(self) -> None:
        """Die: break every connection, send no wills, and accept nobody until `start`.

        Forgotten is all but what `faults.autosave_s` leaves of the retained messages.
        """
        self._is_up = False
        self._n_deaths += 1
        self._crashes.disarm()
        connections = list(self._connections.values())
        self._connections.clear()
        self._subscriptions.clear()
        self._retained.crash(asyncio.get_running_loop().time(), self._faults.autosave_s)
        for connection in connections:
            connection.filters.clear()
            connection.lose(TransportError("the broker is gone"))

    def start(self) -> None:
        """Accept connections again."""
        self._is_up = True
        self._crashes.disarm()

    def restart(self) -> None:
        """Die and come back at once."""
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

    def _crash(self) -> None:
        self.struck["crash_every_s"] += 1
        self.stop()

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
        self._crashes.arm(self._faults)

    def _leak(self, connection: "_Connection") -> None:
        """Send a newcomer what others subscribed to, where `leak_retained` says so."""
        if self._faults.leak_retained:
            for topic, payload in list(self._retained.view.items()):
                if self._subscriptions.subscribers(topic).keys() - {connection}:
                    self.struck["leak_retained"] += 1
                    self._deliver(connection, Message(topic, payload, retained=True), 0)

    def _drop(self, connection: "_Connection", error: TransportError) -> None:
        """End a session without a goodbye."""
        was_connected = self._connections.get(connection.client_id) is connection
        self._forget(connection)
        connection.lose(error)
        if was_connected and connection.will is not None:
            self._publish_will(connection.will)

    def _publish_will(self, will: Will) -> None:
        faults = self._faults
        if faults.lose_will and self._rng.random() < faults.lose_will:
            self.struck["lose_will"] += 1
        elif faults.late_will and self._rng.random() < faults.late_will:
            self.struck["late_will"] += 1
            late_s = self._rng.uniform(0.0, faults.late_will_s)
            asyncio.get_running_loop().call_later(late_s, self._route_will, will, self._n_deaths)
        else:
            self._route_will(will, self._n_deaths)

    def _route_will(self, will: Will, n_deaths: int) -> None:
        if n_deaths == self._n_deaths:  # a broker that died has forgotten it
            self._route(will.topic, will.payload, 1, will.retained)

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
            topics = self._retained.topics(topic_filter)
            most = self._faults.wildcard_retained
            if most is not None and len(topics) > most and qos and topic_filter.is_wildcard:
                self.struck["wildcard_retained"] += len(topics) - most
                topics = topics[:most]
            for topic in topics:
                self._deliver(connection, Message(topic, self._retained.get(topic), retained=True), qos)

    def _unsubscribe(self, connection: "_Connection", texts: Sequence[str]) -> None:
        self._subscriptions.remove(texts, connection)
        for text in texts:
            connection.filters.pop(text, None)

    def _take(self, connection: "_Connection", topic: str, payload: bytes, qos: int, retained: bool) -> None:
        """Take a message from a client, unless it is too large."""
        faults = self._faults
        if faults.cut_above_bytes is not None and len(payload) > faults.cut_above_bytes:
            self.struck["cut_above_bytes"] += 1
            self._drop(connection, TransportError("the broker does not take packets of this size"))
        elif faults.drop_above_bytes is not None and len(payload) > faults.drop_above_bytes:
            self.struck["drop_above_bytes"] += 1
        else:
            self._route(topic, payload, qos, retained)

    def _route(self, topic: str, payload: bytes, qos: int, retained: bool) -> None:
        """Pass a message on; keep it when it is to be retained."""
        if retained:
            if self._faults.autosave_s:
                self._retained.save_if_due(asyncio.get_running_loop().time(), self._faults.autosave_s)
            self._retained.put(topic, payload)
        subscribers = self._subscriptions.subscribers(topic)
        if subscribers:
            message = Message(topic, payload)
            for connection, granted in subscribers.items():
                self._deliver(connection, message, min(qos, granted))

    def _deliver(self, connection: "_Connection", message: Message, qos: int) -> None:
        if self._misdelivery is None:
            connection.send_down(message)
        else:
            self._misdelivery.deliver(connection, message, qos)


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
                    accept, leak = partial(self._broker._accept, connection), partial(self._broker._leak, connection)
                    await connection.round_trip(0, accept, afterwards=leak)
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
        self.backlog = Backlog()
        self.passage = link.open(self.loop, lambda cause: broker._drop(self, TransportError(cause)))
        self._broker, self._is_lost = broker, False
        self._inbox = Inbox()
        self._pending: dict[_Answer, None] = {}

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        check_topic(topic)
        check_payload(payload, self.max_payload_bytes)
        take = partial(self._broker._take, self, topic, payload, qos, retained)
        if qos:
            await self.round_trip(len(topic) + len(payload), take)
        else:
            self._inbox.check()
            self.passage.up(HEADER_BYTES + len(topic) + len(payload), take)
            await asyncio.sleep(0)

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        filters = [filter_of(topic) for topic in topics]
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
        if not self.passage.takes_time:
            self.passage.count(HEADER_BYTES + n_bytes, HEADER_BYTES)
            act()
            self._inbox.check()  # the broker may have thrown us out for what it was asked
            if afterwards is not None:
                afterwards()
            await asyncio.sleep(0)  # a perfect link, too, lets others run
            return
        done: _Answer = self.loop.create_future()
        self._pending[done] = None
        try:
            self.passage.up(HEADER_BYTES + n_bytes, self._at_broker, act, afterwards, done)
            error = await done
        finally:
            del self._pending[done]
        if error is not None:
            self._inbox.check()
            raise error

    def _at_broker(self, act: Callable[[], object], afterwards: Callable[[], object] | None, done: _Answer) -> None:
        refusal = None
        try:
            act()
        except FederationError as error:
            refusal = error
        if not self._is_lost:
            self.passage.down(HEADER_BYTES, _settle, done, refusal)
            if afterwards is not None and refusal is None:
                afterwards()

    def send_down(self, message: Message, wanted: Callable[[], bool] | None = None) -> None:
        """See `misdelivery.Receiver`."""
        if self._inbox.lost is None:
            n_bytes = HEADER_BYTES + len(message.topic) + len(message.payload)
            if wanted is None:
                self.passage.down(n_bytes, self._inbox.put, message)
            else:
                self.passage.down(n_bytes, self._put_if, wanted, message)

    def _put_if(self, wanted: Callable[[], bool], message: Message) -> None:
        if wanted():
            self._inbox.put(message)

    def lose(self, error: TransportError) -> None:
        """End this life: whoever waits learns of it."""
        self._is_lost = True
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
