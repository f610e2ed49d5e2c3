from pathlib import Path

import pytest

from edge_client.config import EdgeSettings
from shared.config import load_settings
from shared.errors import ConfigError


def settings(tmp_path: Path, text: str) -> EdgeSettings:
    """Load a TOML."""
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return load_settings(EdgeSettings, path)


def test_nothing_but_defaults_is_a_device(tmp_path: Path) -> None:
    """A device needs no file."""
    found = settings(tmp_path, "")
    assert found.timers.receipt_min_s == 30
    assert found.outbox.keep_days == 7
    assert found.state_folder("pi") == Path.home() / ".local/state/fedmq/fleet/pi"


def test_devices_of_one_process_have_ways_and_parts_of_their_own(tmp_path: Path) -> None:
    """As a rehearsal writes it."""
    text = 'devices = [{ id = "a", url = "mqtt://127.0.0.1:1", partition = [0, 2] }, { id = "b" }]\n'
    first, second = settings(tmp_path, text).devices
    assert (first.id, first.url, first.partition) == ("a", "mqtt://127.0.0.1:1", (0, 2))
    assert (second.id, second.url, second.partition) == ("b", None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition = [2, 2]", r"partition \[2, 2\]: there are parts 0 to 1"),
        ('devices = [{ id = "a" }, { id = "a" }]', "two have the same id"),
        ('devices = [{ id = "a", url = "http://x" }]', "must begin with mqtt:// or mqtts://"),
        ('devices = [{ id = "a", partition = [5, 2] }]', "there are parts 0 to 1"),
        ("timers = { receipt_min_s = 400 }", "receipt_min_s 400 is over receipt_max_s 300"),
        ('fleet = "Demo"', "fleet = 'Demo'"),
        ("cache = { quota_bytes = 5 }", "cache.quota_bytes = 5"),
        ("timers = { recipt_min_s = 5 }", "did you mean timers.receipt_min_s"),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, text: str, said: str) -> None:
    """File, key, value, what is allowed."""
    with pytest.raises(ConfigError, match=said) as refused:
        settings(tmp_path, text)
    assert "edge.toml" in str(refused.value)


def test_every_field_is_documented() -> None:
    """Each setting says what it is, for people and for error messages."""
    models = [EdgeSettings]
    for model in models:
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, type(EdgeSettings()).__mro__[1]):
                models.append(inner)  # type: ignore[arg-type]
            elif name != "broker":
                assert field.description, name
