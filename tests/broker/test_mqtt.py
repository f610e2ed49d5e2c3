"""What the transport over aiomqtt adds to the contract: refusals, certificates, limits, and leaving nothing behind."""

import asyncio
import getpass
import os
import shutil
import socket
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport, _MqttConnection
from broker.server.faulty_link import faulty_link
from broker.server.mosquitto import find_mosquitto, running_mosquitto, with_listener
from broker.transport import Connection, Message
from shared.errors import ConfigError, CredentialsRefused, TransportError
from tests.broker.certificates import Authority
from tests.broker.contract import PATIENCE_S, next_message

OUR_CONFIGURATION = Path(__file__).parents[2] / "mosquitto.conf"
NO_PASSWORDS = shutil.which("mosquitto_passwd") is None or shutil.which("openssl") is None


def a_client(url: str, **settings: object) -> MqttTransport:
    """A transport with an id of its own."""
    return MqttTransport(BrokerSettings.model_validate({"url": url, **settings}), f"c-{uuid.uuid4().hex[:16]}")


async def answers(connection: Connection) -> None:
    """Check that messages go round."""
    await connection.subscribe(["t/round"])
    await connection.publish("t/round", b"x")
    assert (await next_message(connection.messages())).payload == b"x"


def guarded_configuration(folder: Path, *, tls: tuple[Path, Path] | None = None, ca: Path | None = None) -> Path:
    """mosquitto.conf with what it says in comments for passwords and topics switched on, and perhaps certificates."""
    lines = OUR_CONFIGURATION.read_text().splitlines()
    rules = [
        line.removeprefix("#").strip() for line in lines if line.startswith(("#   pattern", "#   user", "#   topic"))
    ]
    (folder / "fleet.acl").write_text("\n".join(rules))
    (folder / "fleet.passwords").touch()
    for user in ("pi-1", "pi-2", "aggregator"):
        subprocess.run(
            ["mosquitto_passwd", "-b", str(folder / "fleet.passwords"), user, f"of {user}"],
            check=True,
            capture_output=True,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        )
    replaced = {
        "allow_anonymous true": "allow_anonymous false",
        "#use_username_as_clientid true": "use_username_as_clientid true",
        "#password_file /etc/mosquitto/fleet.passwords": f"password_file {folder}/fleet.passwords",
        "#acl_file /etc/mosquitto/fleet.acl": f"acl_file {folder}/fleet.acl",
    }
    if tls is not None:
        replaced["#certfile /etc/mosquitto/certs/broker.pem"] = f"certfile {tls[0]}"
        replaced["#keyfile /etc/mosquitto/certs/broker.key"] = f"keyfile {tls[1]}"
        replaced["max_connections -1"] = f"max_connections -1\ncafile {ca}\nrequire_certificate true"
    assert replaced.keys() <= set(lines)
    path = folder / "guarded.conf"
    path.write_text(
        "\n".join(["user root" if getpass.getuser() == "root" else "", *(replaced.get(x, x) for x in lines)])
    )
    return path


async def test_nobody_there_is_a_transport_error_at_once() -> None:
    """The text names the URL, for it is what a person reads once an attempt."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransportError, match=f"127.0.0.1:{port}"):
        async with a_client(f"mqtt://127.0.0.1:{port}").connect():
            pass


async def test_what_is_no_broker_is_a_transport_error_at_once() -> None:
    """Something that speaks another language, or hangs up before CONNACK, is not waited for."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server, asyncio.timeout(PATIENCE_S):
        with pytest.raises(TransportError):
            async with a_client(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}").connect():
                pass


@pytest.mark.parametrize(("reason", "taken_over"), [(142, True), (139, False)])
async def test_reason_of_a_disconnect_is_read(reason: int, taken_over: bool) -> None:
    """A broker that says why it hangs up is understood; Mosquitto 2.0.11 does not when an id is taken over."""

    async def push_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(bytes([0x20, 3, 0, 0, 0]) + bytes([0xE0, 2, reason, 0]))  # CONNACK, DISCONNECT
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(push_out, "127.0.0.1", 0) as server, asyncio.timeout(PATIENCE_S):
        transport = a_client(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with transport.connect() as connection:
            with pytest.raises(TransportError) as caught:
                await next_message(connection.messages())
            assert caught.value.taken_over is taken_over


async def test_cancelled_connect_leaves_no_client_behind() -> None:
    """Who gives up while the broker has not answered closes the connection that a thread has opened."""
    ends: list[bytes] = []
    connected, over = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read(-1)
        ends.append(b"end")
        writer.close()
        over.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server, asyncio.timeout(PATIENCE_S):
        transport = a_client(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")

        async def connect() -> None:
            async with transport.connect():
                pass

        task = asyncio.create_task(connect())
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await over.wait()
    assert ends == [b"end"]


async def test_connect_cancelled_at_once_leaves_no_client_behind(embedded_url: str) -> None:
    """Cancelled at any moment of connecting, nothing of ours stays connected or is left open."""
    transport = a_client(embedded_url)

    async def connect() -> None:
        async with transport.connect():
            await asyncio.sleep(10.0)

    for pause_s in (0.0, 0.0, 0.001, 0.002, 0.003, 0.005):
        task = asyncio.create_task(connect())
        await asyncio.sleep(pause_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with transport.connect() as connection:
        await answers(connection)


async def test_broker_without_mqtt_5_gets_3_1_1(embedded_url: str) -> None:
    """The default works with the embedded broker, which has no MQTT 5, again and again."""
    transport = a_client(embedded_url)
    for _ in range(2):
        async with transport.connect() as connection:
            await answers(connection)


async def test_cancelled_publish_leaves_the_connection_usable(embedded_url: str) -> None:
    """A task that publishes may be cancelled; what it sent may arrive or not, and the link stays."""
    async with a_client(embedded_url).connect() as connection:
        publishing = [asyncio.create_task(connection.publish("t/x", bytes(10_000))) for _ in range(50)]
        await asyncio.sleep(0)
        for task in publishing:
            task.cancel()
        await asyncio.gather(*publishing, return_exceptions=True)
        await answers(connection)


async def test_calls_wait_through_a_stall_and_end_with_the_link(embedded_url: str) -> None:
    """While nothing flows a call waits; when the link then breaks it ends at once."""
    url = BrokerSettings(url=embedded_url)
    async with faulty_link(url.host, url.port) as link, a_client(link.url).connect() as connection:
        link.stall()
        publishing = asyncio.create_task(connection.publish("t/x", b"x"))
        waiting = asyncio.create_task(next_message(connection.messages()))
        await asyncio.sleep(0.05)
        assert not publishing.done()
        await link.reset()
        for task in (publishing, waiting):
            with pytest.raises(TransportError):
                await task


async def test_reset_in_mid_send_leaves_nothing_behind(embedded_url: str) -> None:
    """However often the link breaks while much is being written, nothing is left that the loop would complain of."""
    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
    url = BrokerSettings(url=embedded_url)
    async with faulty_link(url.host, url.port) as link:
        transport = a_client(link.url, protocol=3)

        async def publish_for_ever(connection: Connection) -> None:
            while True:
                await connection.publish("t/x", b"x", qos=0)

        for _ in range(20):
            async with transport.connect() as connection:
                publishers = [asyncio.create_task(publish_for_ever(connection)) for _ in range(8)]
                await asyncio.sleep(0.003)
                await link.reset()
                outcomes = await asyncio.gather(*publishers, return_exceptions=True)
                assert all(isinstance(outcome, TransportError) for outcome in outcomes)
    assert complaints == []
    assert [number for number in range(256) if loop.remove_writer(number)] == []


@pytest.mark.mosquitto
async def test_limit_is_read_and_kept(mosquitto_url: str) -> None:
    """The broker's packet limit, 1 MiB in mosquitto.conf, is known; more is never sent, and the link stays."""
    async with a_client(mosquitto_url).connect() as connection:
        limit = connection.max_payload_bytes
        assert limit is not None
        assert 1_000_000 < limit < 1 << 20
        with pytest.raises(ConfigError, match="max_packet_size"):
            await connection.publish("t/x", bytes(limit + 1))
        await connection.publish("t/x", bytes(limit))
        await answers(connection)


@pytest.mark.mosquitto
async def test_limit_is_a_setting_where_the_broker_does_not_say(mosquitto_url: str) -> None:
    """MQTT 3.1.1 has no word for it."""
    async with a_client(mosquitto_url, protocol=3).connect() as connection:
        assert connection.max_payload_bytes is None
    async with a_client(mosquitto_url, protocol=3, max_packet_bytes=2048).connect() as connection:
        assert connection.max_payload_bytes == 2048 - 512


@pytest.mark.mosquitto
async def test_end_of_the_broker_is_a_loss_and_no_take_over() -> None:
    """Whoever waits learns of it at once, also through MQTT 5's goodbye of the broker."""
    async with running_mosquitto() as running, a_client(running.url).connect() as connection:
        running.process.terminate()
        with pytest.raises(TransportError) as caught:
            await next_message(connection.messages())
        assert not caught.value.taken_over


@pytest.mark.mosquitto
async def test_small_messages_are_not_delayed(mosquitto_url: str) -> None:
    """Nagle's algorithm is off, or each would wait for a delayed acknowledgement of the one before."""
    async with a_client(mosquitto_url).connect() as connection:
        assert isinstance(connection, _MqttConnection)
        opened: Any = connection._paho.socket()
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.mosquitto
@pytest.mark.skipif(NO_PASSWORDS, reason="no mosquitto_passwd or no openssl on this machine")
@pytest.mark.parametrize("protocol", [5, 3])
async def test_wrong_password_is_refused_credentials(tmp_path: Path, protocol: int) -> None:
    """Trying again changes nothing; URL and user are named, the password never."""
    async with running_mosquitto(configuration=guarded_configuration(tmp_path)) as running:
        wrong = {"username": "pi-1", "password": SecretStr("s3cret"), "protocol": protocol}
        for settings in (wrong, {"protocol": protocol}):
            with pytest.raises(CredentialsRefused) as caught:
                async with a_client(running.url, **settings).connect():
                    pass
            assert running.url in str(caught.value)
            assert "s3cret" not in str(caught.value)
        with pytest.raises(CredentialsRefused, match="pi-1"):
            async with a_client(running.url, **wrong).connect():
                pass


@pytest.mark.mosquitto
@pytest.mark.skipif(NO_PASSWORDS, reason="no mosquitto_passwd or no openssl on this machine")
async def test_rules_of_mosquitto_conf_keep_a_device_to_itself(tmp_path: Path) -> None:
    """With the access rules that mosquitto.conf gives in comments, a device writes and reads its own alone."""

    def of(user: str) -> MqttTransport:
        return a_client(url, username=user, password=SecretStr(f"of {user}"))

    async with running_mosquitto(configuration=guarded_configuration(tmp_path)) as running:
        url = running.url
        async with of("aggregator").connect() as server, of("pi-1").connect() as one, of("pi-2").connect() as two:
            await server.subscribe(["fl/v1/#"])
            await one.subscribe(["fl/v1/#"])
            await one.publish("fl/v1/demo/from/pi-2/check-in", b"forged")
            await one.publish("fl/v1/demo/run/r/round", b"forged", retained=True)
            await one.publish("fl/v1/demo/from/pi-1/check-in/more", b"forged")
            await one.publish("fl/v1/demo/from/pi-1/check-in", b"true")
            await two.publish("fl/v1/demo/from/pi-2/check-in", b"true")
            got = [await next_message(server.messages()) for _ in range(2)]
            assert got == [Message(f"fl/v1/demo/from/pi-{i}/check-in", b"true") for i in (1, 2)]
            await server.publish("fl/v1/demo/to/pi-2/receipt", b"not for one")
            await server.publish("fl/v1/demo/to/pi-1/receipt", b"for one")
            await server.publish("fl/v1/demo/run/r/round", b"for all")
            got = [await next_message(one.messages()) for _ in range(2)]
            assert [message.payload for message in got] == [b"for one", b"for all"]


@pytest.mark.mosquitto
@pytest.mark.skipif(NO_PASSWORDS, reason="no mosquitto_passwd or no openssl on this machine")
async def test_tls_with_a_client_certificate(tmp_path: Path) -> None:
    """Encrypted and certified on both sides it works; a broker that is not certified is not spoken to."""
    authority = Authority.made_in(tmp_path)
    server = authority.sign("broker", address="127.0.0.1")
    certificate, key = authority.sign("pi-1")
    path = guarded_configuration(tmp_path, tls=server, ca=authority.certificate)
    port = _free_port()
    path.write_text(with_listener(path.read_text(), "127.0.0.1", port))
    program = find_mosquitto()
    assert program is not None
    process = await asyncio.create_subprocess_exec(str(program), "-c", str(path), stderr=asyncio.subprocess.DEVNULL)
    try:
        ours = {"username": "pi-1", "password": SecretStr("of pi-1"), "cert_file": certificate, "key_file": key}
        trusting = a_client(f"mqtts://127.0.0.1:{port}", ca_file=authority.certificate, **ours)
        await _until_it_answers(trusting)
        async with trusting.connect() as connection:
            await connection.subscribe(["fl/v1/demo/fleet"])
            await connection.publish("fl/v1/demo/from/pi-1/chunk/0/0", bytes(120 * 1024))
        with pytest.raises(TransportError, match="not to be trusted"):
            async with a_client(f"mqtts://127.0.0.1:{port}", **ours).connect():
                pass
        with pytest.raises(TransportError, match="localhost"):
            async with a_client(f"mqtts://localhost:{port}", ca_file=authority.certificate, **ours).connect():
                pass
        with pytest.raises(TransportError):
            async with a_client(f"mqtts://127.0.0.1:{port}", ca_file=authority.certificate).connect():
                pass
    finally:
        process.terminate()
        await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def _until_it_answers(transport: MqttTransport) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                async with transport.connect():
                    return
            except TransportError:
                await asyncio.sleep(0.02)
