"""The embedded broker: amqtt behind a shim, for machines without Mosquitto. A program: `embedded_process.py` runs it.

For a demo, tests and a LAN of some dozen devices, never for strangers. It speaks MQTT 3.1.1. What amqtt 0.12 gets
wrong, and the shim rights:

- a client that subscribed to nothing receives what is retained under everybody else's filters;
- a subscribe during a broadcast loses the message for the filters that come later, and filters without subscribers
  stay for ever;
- a client that takes an id over leaves the older connection open, and its will unsent;
- a message is sent to everyone before its subscriber's queue looks at anything else, so that one slow reader of
  retained messages stops its own publishes;
- a packet may be as large as it says; here a larger one than allowed ends the stream;
- a client that speaks MQTT 5 is misread before its version is looked at; here it is told, and comes with 3.1.1;
- user names are not checked; here the name, if one is given, has to be the client id, as `use_username_as_clientid`
  makes it with Mosquitto, and `access.py` says what it may do.

The shim overrides private methods, so a minor version is pinned, and the contract suite guards it.
"""

import asyncio
import logging
import signal
import sys
from collections import deque
from functools import lru_cache
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig
from amqtt.errors import AMQTTError

from broker.server.access import may_read, may_write
from broker.subscriptions import TopicFilter

__all__ = ["EmbeddedBroker", "serve"]


CONNECT_TIMEOUT_S = 10.0
"""Who has not sent CONNECT by then is disconnected."""
NO_SUCH_PROTOCOL = bytes([0x20, 2, 0, 1])  # CONNACK of 3.1.1, which later versions understand, too

_filter = lru_cache(4096)(TopicFilter)


class CappedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt has no annotations that mypy can follow
    """Reads a client's bytes, and ends the stream at a packet that is too large."""

    def __init__(self, reader: asyncio.StreamReader, max_packet_bytes: int) -> None:
        super().__init__(reader)
        self._max_packet_bytes = max_packet_bytes
        self._is_over = False
        self._seen = b""

    async def protocol_level(self) -> int:
        """Return MQTT's version as CONNECT, the first packet, says it; what was looked at is still to be read.

        Raises:
            asyncio.IncompleteReadError: the stream ended before.
        """
        seen = await super().read(2)
        while seen[-1] & 0x80 and len(seen) < 5:  # the length of what follows, in one to four bytes
            seen += await super().read(1)
        seen += await super().read(7)  # length and text of the protocol's name, then the version
        self._seen = seen
        return int(seen[-1])

    async def read(self, n: int = -1) -> bytes:
        """Return n bytes; none at the end of the stream."""
        self._is_over = self._is_over or n > self._max_packet_bytes
        if self._is_over:
            return b""
        first, self._seen = self._seen[:n], self._seen[n:]
        return first if len(first) == n else first + bytes(await super().read(n - len(first)))


class EmbeddedBroker(Broker):  # type: ignore[misc]
    """amqtt's broker, put right."""

    def __init__(self, host: str, port: int, max_packet_bytes: int) -> None:
        bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__(
            BrokerConfig.from_dict({"listeners": {"default": {"type": "tcp", "bind": bind}}, "plugins": {}})
        )
        self._max_packet_bytes = max_packet_bytes

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        capped = CappedReader(reader, self._max_packet_bytes)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                level = await capped.protocol_level()
        except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
            writer.close()
            return
        if level > 4:
            writer.write(NO_SUCH_PROTOCOL)
            writer.close()
            return
        await self._client_connected(listener_name, capped, StreamWriterAdapter(writer))

    async def _authenticate(self, session: Any, _: Any) -> bool:
        session.is_anonymous = True  # keeps no messages for those who are away: our sessions are clean
        return session.username is None or session.username == session.client_id

    async def _topic_filtering(self, session: Any, topic: str, action: Action) -> bool:
        match action:
            case Action.PUBLISH:
                return may_write(session.username, topic)
            case Action.RECEIVE:
                return may_read(session.username, topic)
            case _:  # as Mosquitto does: whoever subscribes to everything gets what it may read
                return True

    async def _delete_session(self, client_id: str) -> None:
        older = self._sessions.get(client_id)
        await super()._delete_session(client_id)
        if older is not None and older[0].transitions.is_connected():
            await older[1].handle_connection_closed()  # its own loop then sends the will and closes

    async def _run_broadcast(self, running_tasks: deque[Any]) -> None:
        broadcast = await self._broadcast_queue.get()
        topic, levels = broadcast["topic"], broadcast["topic"].split("/")
        targets: dict[str, tuple[Any, int]] = {}
        for text, subscribers in self._subscriptions.items():
            if text == topic or (_filter(text).is_wildcard and _filter(text).matches(levels)):
                for session, qos in subscribers:
                    before = targets.get(session.client_id, (session, 0))[1]
                    targets[session.client_id] = (session, max(qos, before))
        for session, granted in targets.values():
            if may_read(session.username, topic):
                qos = granted if broadcast.get("qos") is None else min(granted, broadcast["qos"])
                self._send(session, topic, broadcast["data"], qos, running_tasks, retained=False)

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        text, qos = subscription
        # amqtt also calls this for every filter of every client when a client connects.
        if all(each.client_id != session.client_id for each, _ in self._subscriptions.get(text, ())):
            return
        topic_filter = _filter(text)
        if topic_filter.is_wildcard:
            topics = [topic for topic in self._retained_messages if topic_filter.matches(topic.split("/"))]
        else:
            topics = [text] if text in self._retained_messages else []
        for topic in topics:
            if may_read(session.username, topic):
                kept = self._retained_messages[topic]
                self._send(session, topic, kept.data, min(qos, kept.qos or 0), self._tasks_queue, retained=True)

    def _send(
        self, session: Any, topic: str, data: bytes, qos: int, running_tasks: deque[Any], *, retained: bool
    ) -> None:
        handler = self._get_handler(session)
        if handler is not None and session.transitions.is_connected():
            running_tasks.append(asyncio.ensure_future(handler.mqtt_publish(topic, data, qos, retain=retained)))

    def _del_subscription(self, a_filter: str, session: Any) -> int:
        n_deleted: int = super()._del_subscription(a_filter, session)
        if not self._subscriptions.get(a_filter, True):
            del self._subscriptions[a_filter]
        return n_deleted

    async def _del_all_subscriptions(self, session: Any) -> None:
        for text in list(self._subscriptions):
            self._del_subscription(text, session)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Drop the traceback of every delivery whose reader was slow or went away."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, TimeoutError | asyncio.CancelledError | AMQTTError)


async def serve(host: str, port: int, max_packet_bytes: int) -> None:
    """Serve until SIGTERM, or until standard input closes because whoever started us is gone."""
    for name, level in (("amqtt", logging.ERROR), ("transitions", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("amqtt.broker").addFilter(_is_worth_a_line)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(sys.stdin.fileno(), over.set)  # nothing is ever written to it, so this is its end
    broker = EmbeddedBroker(host, port, max_packet_bytes)
    await broker.start()
    try:
        await over.wait()
    finally:
        await broker.shutdown()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
