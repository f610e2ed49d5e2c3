"""The way of bytes beneath paho, on the event loop: read ahead, copied once, written in the same turn.

paho asks the socket for one byte at a time until it knows how long a packet is, copies a payload six times, takes one
packet a turn, and waits for the selector before it writes. For a chunk of a model that costs more than everything
else. Here its parser and its state stay as they are, and these four things are done for it. They touch private
names of paho, which the contract suite of the transports holds in place.

Not here: what a message means (`mqtt.py`), TLS, which paho's socket does.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog

__all__ = ["DataPath"]

READ_AHEAD_BYTES = 65_536
"""Asked of the socket at least; what a packet does not need waits for the next one."""
BYTES_A_TURN = 1 << 20
"""Read before other work of the loop gets its turn."""

_PROTOCOL_ERROR: Final = 2  # paho's MQTT_ERR_PROTOCOL
_MQTT_5: Final = 5
_PUBACK: Final = 0x40

_log = structlog.get_logger(__name__)


class DataPath:
    """Reads and writes for one paho client, whose callbacks run on this loop.

    Args:
        paho: `paho.mqtt.client.Client`, not yet connected.
        loop: where everything but connecting happens.
        arrived: takes topic, payload and whether it was retained.
        broken: takes what went wrong when the link is of no use any more.
    """

    def __init__(
        self,
        paho: Any,
        loop: asyncio.AbstractEventLoop,
        *,
        arrived: Callable[[str, bytes, bool], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self._paho, self._loop, self._arrived, self._broken = paho, loop, arrived, broken
        self._ahead = memoryview(b"")
        self._n_read = 0
        self._is_drained = False
        self._is_write_due = False
        self._acknowledgements = bytearray()  # packets; those of a turn leave as one
        self._watched: socket.socket | None = None  # for writing: it took no more
        self._receive_from_socket = paho._sock_recv
        self._handle_any_publish = paho._handle_publish
        paho._sock_recv = self._receive
        paho._handle_publish = self._handle_publish
        paho.on_socket_unregister_write = self._on_socket_unregister_write

    def read(self) -> None:
        """Take all packets that are there, up to a turn's worth."""
        self._n_read, self._is_drained = 0, False
        try:
            while not self._is_drained and self._paho.socket() is not None:
                if self._n_read >= BYTES_A_TURN:
                    self._loop.call_soon(self.read)  # what was read ahead wakes no selector
                    return
                self._paho.loop_read()
        except Exception as error:  # whatever paho meets there, the link is of no use any more
            self._broken(error)

    def write_soon(self) -> None:
        """Write what is queued, together with what else is queued in this turn of the loop."""
        if not self._is_write_due and self._watched is None:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        try:
            if self._acknowledgements and self._paho.socket() is not None:
                self._paho._packet_queue(_PUBACK, bytes(self._acknowledgements), 0, 1)
                self._acknowledgements.clear()
            self._is_write_due = False
            self._paho.loop_write()
            opened = self._paho.socket()
            if opened is not None and self._watched is None and self._paho.want_write():
                self._loop.add_writer(opened, self._write)
                self._watched = opened
        except Exception as error:
            self._broken(error)

    def _on_socket_unregister_write(self, paho: Any, userdata: Any, opened: Any) -> None:
        if self._watched is not None:
            self._loop.remove_writer(self._watched)
            self._watched = None

    def _receive(self, n: int) -> bytes | memoryview:
        """Return between 1 and `n` bytes; none at the end of the stream.

        Raises:
            BlockingIOError: nothing is there yet.
        """
        if not self._ahead:
            try:
                data = self._receive_from_socket(max(n, READ_AHEAD_BYTES))
            except BlockingIOError:
                self._is_drained = True
                raise
            self._n_read += len(data)
            self._ahead = memoryview(data)
        taken, self._ahead = self._ahead[:n], self._ahead[n:]
        return taken

    def _handle_publish(self) -> int:
        """Take a PUBLISH packet as paho would, and acknowledge it; its payload is copied once."""
        header, packet = self._paho._in_packet["command"], memoryview(self._paho._in_packet["packet"])
        qos = header >> 1 & 3
        if qos == 2:
            return int(self._handle_any_publish())
        at = 2 + int.from_bytes(packet[:2])
        topic = bytes(packet[2:at])
        if qos:
            mid, at = packet[at : at + 2], at + 2
        if self._paho._protocol == _MQTT_5:
            length, at = _variable_length(packet, at)
            at += length
        if not topic or at > len(packet):
            return _PROTOCOL_ERROR
        try:
            self._arrived(topic.decode(), bytes(packet[at:]), bool(header & 1))
        except UnicodeDecodeError:
            _log.warning("topic_is_no_utf8", topic=repr(topic))
        if qos:
            self._acknowledgements += bytes([_PUBACK, 2, *mid])
            self.write_soon()
        return 0


def _variable_length(packet: memoryview, at: int) -> tuple[int, int]:
    """Return a variable byte integer and where it ends; past the end of the packet when it is cut off."""
    length = 0
    for i, byte in enumerate(packet[at : at + 4]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            return length, at + i + 1
    return 0, len(packet) + 1
