import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import Settings
from broker.config import BrokerSettings
from edge_client.config import EdgeSettings
from shared.config import load_settings
from simulator.scenario import DeviceGroup, Scenario
from simulator.settings_files import aggregator_toml, as_toml, host_toml

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10)
SCALARS = st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_toml_reads_back_as_written(table: dict[str, object]) -> None:
    """Any table of scalars, lists and tables comes back as it was."""
    assert tomllib.loads(as_toml(table)) == table


def test_nothing_is_left_out_but_none() -> None:
    """TOML has no null: a key without a value is not written, at any depth."""
    assert tomllib.loads(as_toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}


def test_aggregator_file_gives_the_same_settings_with_another_broker(tmp_path: Path) -> None:
    """What the aggregator's process reads is what the rehearsal was given, but for the broker."""
    settings = Settings.model_validate(
        {"task": "m:t", "round": {"report_goal": 3}, "stop": {"rounds": 4}, "training": {"options": {"a b": 1.5}}}
    )
    path = tmp_path / "run.toml"
    path.write_text(aggregator_toml(settings, broker_url="mqtt://127.0.0.1:4711"))
    expected = settings.model_copy(update={"broker": BrokerSettings(url="mqtt://127.0.0.1:4711")})
    assert load_settings(Settings, path) == expected


def test_host_file_names_each_device_with_its_link(tmp_path: Path) -> None:
    """What a process of devices reads is who lives in it, and how each reaches the broker."""
    scenario = Scenario(run={"task": "m:t"}, processes=2, devices={"a": DeviceGroup(count=3)})
    urls = {f"a-{n}": f"mqtt://127.0.0.1:{n}" for n in (1, 2, 3)}
    path = tmp_path / "host.toml"
    path.write_text(host_toml(scenario.hosts()[0], urls, task="m:t", fleet="f", folder=tmp_path))
    settings = load_settings(EdgeSettings, path)
    assert [(device.id, device.url, device.partition) for device in settings.devices] == [
        ("a-1", "mqtt://127.0.0.1:1", (0, 3)),
        ("a-3", "mqtt://127.0.0.1:3", (2, 3)),
    ]
    assert (settings.task, settings.fleet, settings.folder) == ("m:t", "f", tmp_path)
    assert [device.keeps_state for device in settings.devices] == [None, None]
    scenario = Scenario(run={"task": "m:t"}, devices={"a": DeviceGroup(count=1, keeps_state=False)})
    path.write_text(host_toml(scenario.hosts()[0], urls, task="m:t", fleet="f", folder=tmp_path))
    assert load_settings(EdgeSettings, path).devices[0].keeps_state is False
