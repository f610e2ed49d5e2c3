"""How a broker is reached."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from broker.config import BrokerSettings
from shared.config import load_settings, settings_json
from shared.errors import ConfigError


class Top(BaseModel, extra="forbid", frozen=True):
    """A program's settings, with the table `broker` as programs have it."""

    broker: BrokerSettings = BrokerSettings()


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "is_tls"),
    [
        ("mqtt://127.0.0.1:1884", "127.0.0.1", 1884, None, False),
        ("mqtt://broker.example/", "broker.example", 1883, None, False),
        ("mqtts://pi-7@broker.example", "broker.example", 8883, "pi-7", True),
        ("mqtts://a%40b@[::1]:443", "::1", 443, "a@b", True),
    ],
)
def test_url_is_taken_apart(url: str, host: str, port: int, user: str | None, is_tls: bool) -> None:
    """Host, port, user and encryption stand in the URL; the ports have the usual defaults."""
    settings = BrokerSettings(url=url)
    assert (settings.host, settings.port, settings.user, settings.is_tls) == (host, port, user, is_tls)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:1883",
        "http://127.0.0.1",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:0",
        "mqtt://host:99999",
        "mqtt://host:port",
        "mqtt://host/fleet",
        "mqtt://host?x=1",
        "mqtt://" + "x" * 64 + ".example",
        "mqtt://[::1",
        "",
    ],
)
def test_what_is_no_broker_url_is_refused(url: str) -> None:
    """The message says how to write one."""
    with pytest.raises(ValidationError, match=r"mqtt://127\.0\.0\.1:1883"):
        BrokerSettings(url=url)


def test_password_in_the_url_is_refused_and_not_shown() -> None:
    """The error says where a password belongs, and does not repeat it."""
    with pytest.raises(ConfigError, match="FEDMQ__BROKER__PASSWORD") as caught:
        load_settings(Top, None, {"broker.url": "mqtts://me:s3cret@host"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValidationError) as raw:
        BrokerSettings(url="mqtts://me:s3cret@host")
    assert "s3cret" not in str(raw.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "mqtt://me@host", "username": "you"},
        {"username": "me", "password": "x", "password_file": "/x"},
        {"password": "x"},
        {"password_file": "/x"},
        {"ca_file": "/ca.pem"},
        {"cert_file": "/me.pem"},
        {"url": "mqtts://host", "key_file": "/me.key"},
        {"keepalive_s": 0},
        {"protocol": 4},
        {"max_packet_bytes": 10},
        {"usernam": "me"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object]) -> None:
    """Two users, two passwords, a password of nobody, certificates without TLS, values out of range, unknown keys."""
    with pytest.raises(ValidationError):
        BrokerSettings.model_validate(settings)


def test_password_comes_from_the_environment_and_stays_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable sets it over the TOML; neither the settings' text nor the journalled configuration has it."""
    toml = tmp_path / "run.toml"
    toml.write_text('broker = { url = "mqtts://me@host" }')
    monkeypatch.setenv("FEDMQ__BROKER__PASSWORD", "s3cret")
    settings = load_settings(Top, toml)
    assert settings.broker.password is not None
    assert settings.broker.password.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings) + str(settings) + settings_json(settings)


def test_every_field_is_documented() -> None:
    """Whoever reads an error or the documentation learns what each key means."""
    assert [name for name, field in BrokerSettings.model_fields.items() if not field.description] == []
