"""A real broker through aiomqtt: the only file that imports it, so that it can be exchanged.

What aiomqtt and paho leave to their user, and what is done about it here:

- A client that is used again sends again what it could not send before, and one bad message then ends every later
  connection. So each connection has a client of its own.
- A call does not notice that the link is gone before its timeout. Here it ends at once (`_call`).
- With Nagle's algorithm a window of chunks waits for delayed acknowledgements: 16 to 60 times slower. Switched off.
- The reasons in CONNACK, PUBACK and DISCONNECT are thrown away, and so are the broker's limits. Read in the callbacks.
- Connecting runs in a thread that nobody can cancel. Who gives up waits for it, so that no half-open client is left.
- A connect that fails leaves its socket open. Closed here.
- A socket is watched for writing one turn after that was asked for: it may be closed by then, and its number another's,
  which would then be watched for ever. Watched at once here.
- `asyncio.wait_for` of Python 3.11 may swallow a cancel when given a timeout. So aiomqtt never gets one.
"""

import asyncio
import contextlib
import logging
import math
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiomqtt
import structlog

from broker.config import BrokerSettings
from broker.credentials import read_password, read_tls
from broker.inbox import Inbox
from broker.mqtt_path import DataPath
from broker.subscriptions import TopicFilter, check_payload, check_topic
from broker.transport import Connection, Message, Will
from shared.errors import CredentialsRefused, TransportError

__all__ = ["MqttTransport"]

CONNECT_TIMEOUT_S = 10.0
"""From the TCP connection to CONNACK, in seconds. Connecting TCP and TLS before that takes at most 5 s each."""
GOODBYE_TIMEOUT_S = 2.0
"""A goodbye that the link does not take within this is not said, and the broker sends the will."""
MAX_IN_FLIGHT = 20
"""Publishes without their acknowledgement on one connection, as many as Mosquitto takes. Further ones wait here."""
HEADER_BYTES = 512
"""What a packet has beside its payload, topic included; our longest topic has 230 bytes."""

_UNSUPPORTED_PROTOCOL = 132
_CREDENTIALS = {134, 135, 138, 140}  # bad user name or password, not authorised, banned, bad authentication method
_KEEPALIVE_TIMEOUT = 141
_SESSION_TAKEN_OVER = 142
_UNBOUNDED = 65_535  # the window is kept here, where the broker's Receive Maximum is known

T = TypeVar("T")

_log = structlog.get_logger(__name__)
# What the libraries log, they also raise, and we say it once.
_quiet = logging.getLogger(f"{__name__}.aiomqtt")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False
_quiet.setLevel(logging.CRITICAL)


class MqttTransport:
    """A way to a real broker for one client id. Files that the settings name are read once, when it is made.

    Args:
        settings: where the broker is and who we are.
        client_id: as in MQTT's CONNECT; brokers with our access rules want it to be the user name.

    Raises:
        ConfigError: a file of ours cannot be read.
    """

    def __init__(self, settings: BrokerSettings, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._password = read_password(settings)
        self._tls = read_tls(settings)
        self._protocol = aiomqtt.ProtocolVersion.V5 if settings.protocol == 5 else aiomqtt.ProtocolVersion.V311

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        try:
            connection = await self._open(will)
        except _NoSuchProtocol:
            if self._protocol is not aiomqtt.ProtocolVersion.V5:
                raise
            _log.info("broker_has_no_mqtt_5", url=self._settings.url, instead="3.1.1")
            self._protocol = aiomqtt.ProtocolVersion.V311
            connection = await self._open(will)
        try:
            yield connection
        except BaseException:
            await connection.drop()
            raise
        await connection.say_goodbye()

    async def _open(self, will: Will | None) -> "_MqttConnection":
        settings, is_v3 = self._settings, self._protocol is aiomqtt.ProtocolVersion.V311
        client = aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.user,
            password=self._password,
            identifier=self._client_id,
            protocol=self._protocol,
            will=None if will is None else aiomqtt.Will(will.topic, will.payload, qos=1, retain=will.retained),
            clean_session=True if is_v3 else None,  # 5 starts clean on a client's first connection, and ours have one
            timeout=CONNECT_TIMEOUT_S,
            keepalive=settings.keepalive_s,
            max_inflight_messages=_UNBOUNDED,
            tls_context=self._tls,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            logger=_quiet,
        )
        client.pending_calls_threshold = _UNBOUNDED  # it warns of more than ten calls at a time
        connection = _MqttConnection(client, settings)
        await connection.open()
        return connection


class _NoSuchProtocol(TransportError):
    """The broker does not have this version of MQTT."""


class _MqttConnection:
    """One life of one client."""

    def __init__(self, client: aiomqtt.Client, settings: BrokerSettings) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._client = client
        self._settings = settings
        self._answer_timeout_s = 2.0 * settings.keepalive_s  # by then the keepalive has noticed a dead link
        self._inbox = Inbox()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._is_abandoned = False
        self._refusal: Any = None
        self._n_refused_publishes = 0
        self._deadlines: dict[asyncio.Timeout, None] = {}
        self._answers: dict[int, asyncio.Future[bool]] = {}  # of publishes: whether the broker has them
        self._window = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._max_packet_bytes = settings.max_packet_bytes
        self._paho = paho = client._client
        paho.on_connect = _before(self._on_connect, paho.on_connect)
        paho.on_disconnect = _before(self._on_disconnect, paho.on_disconnect)
        paho.on_publish = self._on_publish
        paho.on_socket_open = _after(self._on_socket_open, paho.on_socket_open)
        paho.on_socket_close = _before(self._on_socket_close, paho.on_socket_close)
        paho.on_socket_register_write = self._on_socket_register_write
        self._path = DataPath(paho, loop, arrived=self._on_message, broken=self._on_broken)
        client._disconnected.add_done_callback(self._on_disconnected)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        check_topic(topic)
        check_payload(payload, self.max_payload_bytes)
        async with self._window:  # for as long as the link lives
            self._inbox.check()
            # not aiomqtt's own: for each message of a model that costs as much as the message
            sent = self._paho.publish(topic, payload, qos, retained)
            if sent.rc:
                self._on_broken(sent.rc)
            elif not sent.is_published():
                answer = self._answers[sent.mid] = self._loop.create_future()
                timer = self._loop.call_later(self._answer_timeout_s, self._no_answer)
                try:
                    if await answer:
                        return
                finally:
                    timer.cancel()
                    del self._answers[sent.mid]
            self._inbox.check()

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        asked = [(TopicFilter(topic).text, qos) for topic in topics]
        if asked:
            answers: Any = await self._call(lambda: self._client.subscribe(asked, timeout=math.inf))
            refused = [topic for (topic, _), answer in zip(asked, answers, strict=True) if answer.is_failure]
            if refused:
                raise TransportError(f"{self._settings.url} refuses the subscription to {', '.join(refused)}")

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        if topics:
            await self._call(lambda: self._client.unsubscribe(list(topics), timeout=math.inf))

    def messages(self) -> AsyncIterator[Message]:
        return self._inbox

    @property
    def max_payload_bytes(self) -> int | None:
        return None if self._max_packet_bytes is None else max(self._max_packet_bytes - HEADER_BYTES, 0)

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportError: nobody there, or the link broke.
            CredentialsRefused: the broker refuses who we are.
        """
        entering = asyncio.create_task(self._client.__aenter__(), name=f"connect to {self._settings.url}")
        try:
            # Not awaited itself: its thread goes on when it is cancelled, and would leave a client that nobody holds.
            await _first(entering, self._gone)
            if self._refusal is not None:
                raise self._refused()
            if not entering.done():
                self._inbox.check()
            entering.result()
        except aiomqtt.MqttError as error:
            await self._abandon(entering)
            raise TransportError(self._explain(str(error))) from error
        except BaseException:
            await self._abandon(entering)
            raise
        self._client._disconnected.add_done_callback(self._on_disconnected)  # it may be another one by now

    async def say_goodbye(self) -> None:
        """Leave in good order, so that no will is sent."""
        if self._inbox.lost is None:
            await _finish(asyncio.create_task(self._client.__aexit__(None, None, None)), GOODBYE_TIMEOUT_S)
        await self.drop()

    async def drop(self) -> None:
        """Close the link without a goodbye. May be called again."""
        self._lose(TransportError("the connection is closed"))
        if self._paho.socket() is not None:
            await asyncio.wait({self._closed}, timeout=GOODBYE_TIMEOUT_S)

    async def _abandon(self, entering: "asyncio.Task[Any]") -> None:
        """Give a connect up: close the socket as soon as the connecting thread has one."""
        self._is_abandoned = True
        self._shut_down()
        await _first(entering, self._closed)
        await _finish(entering, 0.0)
        await self.drop()

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await a call of aiomqtt; it ends at once when the link is lost."""
        try:
            async with asyncio.timeout(self._answer_timeout_s) as deadline:
                self._inbox.check()
                self._deadlines[deadline] = None
                try:
                    return await call()
                finally:
                    del self._deadlines[deadline]
        except (TimeoutError, aiomqtt.MqttError) as error:
            if isinstance(error, TimeoutError):  # both are without effect when it is known to be lost
                self._no_answer()
            else:
                self._lose(TransportError(self._explain(str(error))))
            assert self._inbox.lost is not None
            raise TransportError(self._inbox.lost.what, taken_over=self._inbox.lost.taken_over) from error

    def _no_answer(self) -> None:
        self._lose(TransportError(self._explain(f"no answer for {self._answer_timeout_s:g} s")))

    def _lose(self, error: TransportError) -> None:
        """End this life: whoever waits learns of it, and the socket is closed."""
        if self._inbox.lost is None:
            self._inbox.end(error)
            self._gone.set_result(None)
            for deadline in self._deadlines:
                if not deadline.expired():
                    deadline.reschedule(0.0)
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(False)
        self._shut_down()

    def _shut_down(self) -> None:
        """Let both ends read the end of the stream: then the libraries clean up, on this side in the next turn."""
        _shut_down(self._paho.socket())

    def _refused(self) -> TransportError | CredentialsRefused:
        code, reason = self._refusal.value, str(self._refusal).lower()
        url, user = self._settings.url, self._settings.user
        if code in _CREDENTIALS:
            who = f"user {user!r}" if user is not None else "a client without a user name"
            return CredentialsRefused(
                f"{url} refuses {who}: {reason}", hint="check broker.url, the user name and FEDMQ__BROKER__PASSWORD"
            )
        if code == _UNSUPPORTED_PROTOCOL:
            return _NoSuchProtocol(self._explain(reason))
        return TransportError(self._explain(f"the broker refuses the connection: {reason}"))

    def _explain(self, what: str) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in what:
            what = f"the broker's certificate is not to be trusted ({what.rpartition('failed: ')[2]})"
        return f"{self._settings.url}: {what}"

    # What paho calls, on the loop but while it connects. An exception here would end the connection unexplained.

    def _on_connect(self, paho: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refusal = reason
            return
        limits = [limit for limit in (getattr(properties, "MaximumPacketSize", None), self._max_packet_bytes) if limit]
        self._max_packet_bytes = min(limits, default=None)
        self._window = asyncio.Semaphore(min(MAX_IN_FLIGHT, getattr(properties, "ReceiveMaximum", MAX_IN_FLIGHT)))

    def _on_disconnect(self, paho: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        by_broker = flags.is_disconnect_packet_from_server
        what = f"the broker ends the connection: {reason}" if by_broker else "the connection is lost"
        if reason.value == _KEEPALIVE_TIMEOUT:
            what = f"nothing was heard from the broker for {self._settings.keepalive_s} s"
        self._lose(TransportError(self._explain(what), taken_over=by_broker and reason.value == _SESSION_TAKEN_OVER))

    def _on_disconnected(self, disconnected: "asyncio.Future[None]") -> None:
        # Beside _on_disconnect: paho raises, and calls nobody, on bytes that it cannot parse.
        self._on_broken(None if disconnected.cancelled() else disconnected.exception())

    def _on_publish(self, paho: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(True)
        if reason.is_failure:
            self._n_refused_publishes += 1
            _log.warning("publish_refused", reason=str(reason), url=self._settings.url, count=self._n_refused_publishes)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        self._inbox.put(Message(topic, payload, retained=retained))

    def _on_broken(self, cause: object) -> None:
        self._lose(TransportError(self._explain(f"the connection is lost: {cause}")))

    def _on_socket_open(self, paho: Any, userdata: Any, opened: Any) -> None:
        # In the connecting thread. Whoever gives up sets the flag first and then looks for a socket, so one of the two
        # finds the other.
        if self._is_abandoned:
            _shut_down(opened)
        self._loop.call_soon_threadsafe(self._watch_for_reading, opened)

    def _watch_for_reading(self, opened: Any) -> None:
        if opened.fileno() >= 0:  # not closed meanwhile
            self._loop.add_reader(opened, self._path.read)

    def _on_socket_register_write(self, paho: Any, userdata: Any, opened: Any) -> None:
        if threading.get_ident() == self._loop_thread:
            self._path.write_soon()
        else:  # the connecting thread has something to say: CONNECT
            self._loop.call_soon_threadsafe(self._path.write_soon)

    def _on_socket_close(self, paho: Any, userdata: Any, closed: Any) -> None:
        if not self._closed.done():
            self._closed.set_result(None)


def _before(ours: Callable[..., None], theirs: Any) -> Any:
    """Return a callback that calls ours first."""

    def both(*args: Any) -> None:
        ours(*args)
        theirs(*args)

    return both


def _after(ours: Callable[..., None], theirs: Any) -> Any:
    """Return a callback that calls ours last."""

    def both(*args: Any) -> None:
        theirs(*args)
        ours(*args)

    return both


async def _first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of them is done, and leave the others alone."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _finish(task: "asyncio.Task[Any]", timeout_s: float) -> None:
    """Give a task this long, then cancel it; what becomes of it does not matter."""
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()


def _shut_down(opened: Any) -> None:
    if opened is not None:
        with contextlib.suppress(OSError):  # the other end was faster
            opened.shutdown(socket.SHUT_RDWR)
