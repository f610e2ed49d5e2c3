"""Running Mosquitto."""

import asyncio
import socket
from pathlib import Path

import pytest

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from broker.server.mosquitto import find_mosquitto, running_mosquitto, with_listener
from shared.errors import ConfigError, TransportError


def test_listener_is_moved_and_nothing_else() -> None:
    """Of the configuration only the one listener line changes."""
    text = "# listener of old\nallow_anonymous true\nlistener 1883\nprotocol mqtt\n"
    moved = with_listener(text, "127.0.0.1", 4711)
    assert moved == "# listener of old\nallow_anonymous true\nlistener 4711 127.0.0.1\nprotocol mqtt\n"
    assert with_listener(moved, "::1", 1).count("\nlistener 1 ::1\n") == 1


@pytest.mark.parametrize("text", ["allow_anonymous true\n", "listener 1\nlistener 2\n"])
def test_configuration_without_exactly_one_listener_is_refused(text: str) -> None:
    """What would be moved is not guessed."""
    with pytest.raises(ConfigError, match=r"mosquitto\.conf"):
        with_listener(text, "127.0.0.1", 1)


@pytest.mark.mosquitto
async def test_it_answers_when_it_is_there_and_is_gone_afterwards() -> None:
    """Inside the context it takes connections on a free port of 127.0.0.1, afterwards its process has ended."""
    async with running_mosquitto() as running:
        assert running.kind == "mosquitto"
        assert running.url == f"mqtt://127.0.0.1:{running.port}"
        transport = MqttTransport(BrokerSettings(url=running.url), "a")
        async with transport.connect():
            pass
    assert await running.wait() == 0
    with pytest.raises(TransportError):
        async with transport.connect():
            pass


@pytest.mark.mosquitto
async def test_its_end_is_noticed() -> None:
    """Whoever waits for a broker that should not end learns that it has."""
    async with running_mosquitto() as running:
        running.process.kill()
        async with asyncio.timeout(5.0):
            assert await running.wait() != 0


@pytest.mark.mosquitto
async def test_port_taken_is_refused_before_anything_starts() -> None:
    """The error names who has it."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another"):
        async with running_mosquitto(port=taken.getsockname()[1]):
            pass


@pytest.mark.mosquitto
async def test_configuration_that_it_refuses_is_explained(tmp_path: Path) -> None:
    """Mosquitto's own words stand in the error."""
    path = tmp_path / "wrong.conf"
    path.write_text("listener 1883\nno_such_setting true\n")
    with pytest.raises(ConfigError, match="no_such_setting"):
        async with running_mosquitto(configuration=path):
            pass
    with pytest.raises(ConfigError, match=r"missing\.conf"):
        async with running_mosquitto(configuration=tmp_path / "missing.conf"):
            pass


async def test_absent_mosquitto_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install it."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("broker.server.mosquitto._ALSO_LOOKED_IN", ())
    assert find_mosquitto() is None
    with pytest.raises(ConfigError, match="apt install mosquitto"):
        async with running_mosquitto():
            pass
