"""What a broker may send is read as paho would read it, however the packets fall into pieces."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.transport import Connection, Message
from shared.errors import TransportError
from tests.broker.contract import PATIENCE_S, next_message

CONNACK = {3: bytes([0x20, 2, 0, 0]), 5: bytes([0x20, 3, 0, 0, 0])}


def variable(number: int) -> bytes:
    """A length as MQTT writes it."""
    pieces = bytearray()
    while True:
        number, piece = number >> 7, number & 127
        pieces.append(piece | (128 if number else 0))
        if not number:
            return bytes(pieces)


def a_publish(
    topic: bytes, payload: bytes, *, qos: int = 1, retained: bool = False, properties: bytes | None = None
) -> bytes:
    """A PUBLISH packet; `properties` are those of MQTT 5."""
    body = len(topic).to_bytes(2) + topic + (b"\x00\x07" if qos else b"")
    body += b"" if properties is None else variable(len(properties)) + properties
    body += payload
    return bytes([0x30 | qos << 1 | retained]) + variable(len(body)) + body


@asynccontextmanager
async def a_broker_that_says(pieces: Sequence[bytes], protocol: int) -> AsyncIterator[tuple[Connection, list[bytes]]]:
    """A connection to a broker that sends these pieces after its CONNACK, and what that broker has read since."""
    answers: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(CONNACK[protocol])
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while answer := await reader.read(1000):
            answers.append(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(PATIENCE_S):
        port = server.sockets[0].getsockname()[1]
        settings = BrokerSettings.model_validate({"url": f"mqtt://127.0.0.1:{port}", "protocol": protocol})
        async with MqttTransport(settings, "somebody").connect() as connection:
            yield connection, answers


@pytest.mark.parametrize("protocol", [3, 5])
@pytest.mark.parametrize("piece_bytes", [1, 7, 70_000, 10**7])
async def test_messages_arrive_whole_however_they_are_cut(protocol: int, piece_bytes: int) -> None:
    """Packets may begin and end anywhere in what the socket gives, several in one piece or one in many."""
    payloads = [b"", b"x", bytes(range(256)) * (3 if piece_bytes < 100 else 1000), b"last"]
    properties = None if protocol == 3 else b"\x02\x00\x00\x00\x3c"  # expires in a minute
    stream = b"".join(
        a_publish(f"t/{i}".encode(), payload, qos=i % 2, retained=i == 2, properties=properties)
        for i, payload in enumerate(payloads)
    )
    cut = [stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes)]
    async with a_broker_that_says(cut, protocol) as (connection, _):
        for i, payload in enumerate(payloads):
            assert await next_message(connection.messages()) == Message(f"t/{i}", payload, retained=i == 2)


async def test_only_qos_1_is_acknowledged() -> None:
    """With the number of the packet; QoS 0 has none."""
    async with a_broker_that_says([a_publish(b"t", b"0", qos=0), a_publish(b"t", b"1")], 3) as (connection, answers):
        for _ in range(2):
            await next_message(connection.messages())
        while not answers:  # noqa: ASYNC110 - the broker's side knows nothing of events
            await asyncio.sleep(0)
        assert b"".join(answers) == b"\x40\x02\x00\x07"


@pytest.mark.parametrize(
    "packet",
    [
        bytes([0x32, 3, 0, 9, 65]),  # the topic is longer than the packet
        bytes([0x32, 4, 0, 1, 65, 0]),  # ends within its number
        bytes([0x32, 2, 0, 0]),  # no topic, and no alias that we would have allowed
        bytes([0x32, 6, 0, 1, 65, 0, 7, 9]),  # properties are longer than the packet
        bytes([0x32, 9, 0, 1, 65, 0, 7, 255, 255, 255, 255]),  # a length without end
        bytes([0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),  # so is this one
    ],
)
async def test_what_is_no_packet_ends_the_connection(packet: bytes) -> None:
    """As a lost link, for nothing that follows can be trusted to begin where it should."""
    with pytest.raises(TransportError):
        async with a_broker_that_says([packet], 5) as (connection, _):
            await next_message(connection.messages())


async def test_topic_that_is_no_text_is_skipped() -> None:
    """And acknowledged, or the broker would send it for ever."""
    async with a_broker_that_says([a_publish(b"\xff\xfe", b"?"), a_publish(b"t", b"!")], 3) as (connection, _):
        assert (await next_message(connection.messages())).payload == b"!"
