"""Which broker is run."""

import pytest

from broker.server.choice import running_broker
from broker.server.embedded_process import has_embedded
from broker.server.mosquitto import find_mosquitto
from shared.errors import ConfigError


async def test_auto_takes_mosquitto_where_there_is_one() -> None:
    """Otherwise the embedded one."""
    if find_mosquitto() is None and not has_embedded():
        pytest.skip("neither mosquitto nor the extra 'embedded' on this machine")
    async with running_broker() as running:
        assert running.kind == ("mosquitto" if find_mosquitto() else "embedded")


async def test_auto_takes_the_embedded_one_where_there_is_no_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Mosquitto still has a demo."""
    if not has_embedded():
        pytest.skip("the extra 'embedded' is not installed")
    monkeypatch.setattr("broker.server.choice.find_mosquitto", lambda: None)
    async with running_broker() as running:
        assert running.kind == "embedded"


async def test_neither_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get one."""
    monkeypatch.setattr("broker.server.choice.find_mosquitto", lambda: None)
    monkeypatch.setattr("broker.server.choice.has_embedded", lambda: False)
    with pytest.raises(ConfigError, match="apt install mosquitto"):
        async with running_broker():
            pass
