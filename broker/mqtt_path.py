"""The way of bytes beneath paho, on the event loop: many packets a read, payloads copied once, writes in the same turn.

paho asks the socket for one byte at a time until it knows how long a packet is, copies a payload six times, takes one
packet a turn, and waits for the selector before it writes. For a chunk of a model that costs more than everything
else. So here packets are cut out of what the socket has, a PUBLISH goes straight to whoever wants it, and every other
packet to paho's own handler. That touches private names of paho, which the contract suite of the transports holds in
place.

Not here: what a message means (`mqtt.py`), TLS, which paho's socket does.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog

__all__ = ["DataPath"]

READ_BYTES = 1 << 18
"""Asked of the socket at a time, into one buffer that all connections of a loop share."""
BYTES_A_TURN = 1 << 20
"""Read before other work of the loop gets its turn."""
SMALL_BYTES = 4096
"""Packets up to this size are put together before they are written."""

_MALFORMED: Final = 2  # paho's MQTT_ERR_PROTOCOL
_LOST: Final = 7  # paho's MQTT_ERR_CONN_LOST
_MQTT_5: Final = 5
_PUBLISH: Final = 0x30
_PUBACK: Final = 0x40
_DISCONNECT: Final = 0xE0
_MAX_HEADER_BYTES: Final = 5

_log = structlog.get_logger(__name__)
_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


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
        self._header = b""  # the beginning of a packet whose length is not known yet
        self._packet: memoryview | None = None  # a packet of which a part is missing
        self._n_there = 0  # bytes of it
        self._command = 0  # its first byte
        self._is_write_due = False
        self._acknowledgements = bytearray()  # packets; those of a turn leave as one
        self._watched: socket.socket | None = None  # for writing: it took no more
        paho.on_socket_unregister_write = self._on_socket_unregister_write

    def read(self) -> None:
        """Take all packets that are there, up to a turn's worth."""
        n_read = 0
        try:
            while (opened := self._paho.socket()) is not None:
                if n_read >= BYTES_A_TURN:
                    self._loop.call_soon(self.read)  # what a TLS socket holds back wakes no selector
                    return
                try:
                    n_new = self._read(opened)
                except (BlockingIOError, ssl.SSLWantReadError):
                    return
                except OSError:
                    n_new = 0
                if not n_new:
                    self._paho._loop_rc_handle(_LOST)
                    return
                n_read += n_new
                self._paho._last_bytes_received = time.monotonic()  # for its keepalive
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
            self._gather()
            self._paho.loop_write()
            opened = self._paho.socket()
            if opened is not None and self._watched is None and self._paho.want_write():
                self._loop.add_writer(opened, self._write)
                self._watched = opened
        except Exception as error:
            self._broken(error)

    def _gather(self) -> None:
        """Let small packets that are queued leave as one: for a fleet's assignments the calls cost most."""
        queue = self._paho._out_packet
        if len(queue) < 2:
            return
        packets, small = [], None
        for packet in queue:
            command = packet["command"]
            # paho wants to see the end of a QoS 0 publish and of a goodbye, and a packet that is cut goes on first
            is_special = command & 0xF6 == _PUBLISH or command & 0xF0 == _DISCONNECT or packet["pos"]
            if is_special or len(packet["packet"]) > SMALL_BYTES:
                small = None
                packets.append(packet)
            elif small is None or len(small["packet"]) > SMALL_BYTES:
                small = {**packet, "packet": bytearray(packet["packet"])}
                packets.append(small)
            else:
                small["packet"] += packet["packet"]
                small["to_process"] = len(small["packet"])
        queue.clear()
        queue.extend(packets)

    def _on_socket_unregister_write(self, paho: Any, userdata: Any, opened: Any) -> None:
        if self._watched is not None:
            self._loop.remove_writer(self._watched)
            self._watched = None

    def _read(self, opened: socket.socket) -> int:
        """Read once, and handle the packets that are whole now; return the number of bytes, 0 at the end."""
        if self._packet is not None:
            n_new = opened.recv_into(self._packet[self._n_there :])
            self._n_there += n_new
            if self._n_there == len(self._packet):
                packet, self._packet = self._packet, None
                self._handle(self._command, packet)
            return n_new
        buffer = _buffers.get(self._loop)
        if buffer is None:
            buffer = _buffers[self._loop] = memoryview(bytearray(READ_BYTES))
        n_kept = len(self._header)
        n_new = opened.recv_into(buffer[n_kept:])
        if n_new:
            buffer[:n_kept], self._header = self._header, b""
            self._cut(buffer[: n_kept + n_new])
        return n_new

    def _cut(self, data: memoryview) -> None:
        """Handle every whole packet, and keep the beginning of the last."""
        at = 0
        while at < len(data):
            length, start = _variable_length(data, at + 1)
            if start > len(data):
                if len(data) - at >= _MAX_HEADER_BYTES:
                    self._paho._loop_rc_handle(_MALFORMED)
                else:
                    self._header = bytes(data[at:])
                return
            end = start + length
            if end > len(data):
                self._command, self._packet = data[at], memoryview(bytearray(length))
                self._n_there = len(data) - start
                self._packet[: self._n_there] = data[start:]
                return
            self._handle(data[at], data[start:end])
            if self._paho.socket() is None:  # it was the last word
                return
            at = end

    def _handle(self, command: int, packet: memoryview) -> None:
        if command & 0xF0 == _PUBLISH and command & 0x06 != 0x04:
            if not self._handle_publish(command, packet):
                self._paho._loop_rc_handle(_MALFORMED)
            return
        in_packet = self._paho._in_packet
        in_packet["command"], in_packet["packet"] = command, bytearray(packet)
        in_packet["remaining_length"], in_packet["pos"] = len(packet), 0
        if (answer := self._paho._packet_handle()) > 0:
            self._paho._loop_rc_handle(answer)

    def _handle_publish(self, command: int, packet: memoryview) -> bool:
        """Take a PUBLISH packet of QoS 0 or 1, and acknowledge it; return whether it is one."""
        at = 2 + int.from_bytes(packet[:2])
        topic = bytes(packet[2:at])
        qos = command & 0x06
        if qos:
            mid, at = packet[at : at + 2], at + 2
        if self._paho._protocol == _MQTT_5:
            length, at = _variable_length(packet, at)
            at += length
        if not topic or at > len(packet):
            return False
        try:
            self._arrived(topic.decode(), bytes(packet[at:]), bool(command & 1))
        except UnicodeDecodeError:
            _log.warning("topic_is_no_utf8", topic=repr(topic))
        if qos:
            self._acknowledgements += bytes([_PUBACK, 2, *mid])
            self.write_soon()
        return True


def _variable_length(packet: memoryview, at: int) -> tuple[int, int]:
    """Return a variable byte integer and where it ends; past the end of the packet when it is cut off."""
    length = 0
    for i, byte in enumerate(packet[at : at + 4]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            return length, at + i + 1
    return 0, len(packet) + 1
