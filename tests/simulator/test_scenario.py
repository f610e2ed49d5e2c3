from pathlib import Path

import pytest

from aggregator.config import Settings
from broker.link import Failures
from shared.config import load_settings
from shared.errors import ConfigError
from simulator.scenario import DeviceGroup, Scenario, dotted

EXAMPLES = Path(__file__).parents[2] / "examples"


def _written(folder: Path, text: str) -> Path:
    path = folder / "scenario.toml"
    path.write_text(text)
    return path


def test_demo_is_twenty_devices_of_which_one_is_killed() -> None:
    """The demo's fleet is as its README says: 20 devices, some slow, some that come and go, one that dies."""
    scenario = load_settings(Scenario, EXAMPLES / "demo.toml")
    plan = scenario.plan()
    assert len(plan) == 20
    assert [device.partition for device in plan] == [(i, 20) for i in range(20)]
    assert len({device.id for device in plan}) == 20
    assert [device.id for device in plan if device.killed_in_upload] == ["doomed-1"]
    flaky = [device for device in plan if device.group == "flaky"]
    assert all(isinstance(device.link.outages, Failures) for device in flaky)


def test_demo_sends_updates_in_chunks() -> None:
    """The demo's run is the digits' run, with chunks so small that grants and resuming are exercised."""
    scenario = load_settings(Scenario, EXAMPLES / "demo.toml")
    assert scenario.settings is not None
    settings = load_settings(Settings, EXAMPLES / scenario.settings, dotted(scenario.run))
    assert settings.task == "examples.digits:task"
    assert settings.transfer.inline_bytes < settings.transfer.chunk_bytes == 4096
    assert settings.round.report_goal < len(scenario.plan())


def test_hosts_share_the_living_and_leave_the_doomed_alone() -> None:
    """Every device is in one process; whoever is killed takes nobody along."""
    scenario = Scenario(
        run={"task": "m:t"},
        processes=3,
        devices={"a": DeviceGroup(count=7), "b": DeviceGroup(count=2, killed_in_upload=True)},
    )
    hosts = scenario.hosts()
    assert [len(host) for host in hosts] == [3, 2, 2, 1, 1]
    assert {device for host in hosts for device in host} == set(scenario.plan())
    assert all(device.killed_in_upload for host in hosts[3:] for device in host)


def test_hosts_are_no_more_than_devices() -> None:
    """A process without a device is not started."""
    assert len(Scenario(run={"task": "m:t"}, processes=8, devices={"a": DeviceGroup(count=2)}).hosts()) == 2


def test_dotted_names_the_leaves() -> None:
    """Nested tables become the dotted keys that overrides are given by."""
    assert dotted({"seed": 2, "round": {"report_goal": 3, "window_s": {"min": 1}}}) == {
        "seed": 2,
        "round.report_goal": 3,
        "round.window_s.min": 1,
    }


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("[devices.a]\ncoutn = 3", "devices.a.coutn", "did you mean devices.a.count?"),
        ("[devices.a]\ncount = 0", "devices.a.count", "1"),
        ("[devices.a]\nlink = { latency = 1 }", "devices.a.link.latency", "did you mean devices.a.link.latency_s?"),
        ("[devices.a.link]\noutages = { every_s = 0, lasts_s = 1 }", "devices.a.link.outages.every_s", "0"),
        ("procesess = 2\n[devices.a]", "procesess", "processes"),
        ("time_limit_s = -1\n[devices.a]", "time_limit_s", "-1"),
        ("", "devices", "missing"),
        ("[devices]", "devices", "at least 1"),
        ("[devices.Slow]", "devices.Slow", "pattern"),
        ("[devices.a]\nkilled_in_upload = true", "devices", "killed"),
    ],
)
def test_mistake_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, key: str, says: str) -> None:
    """Whatever is wrong in a scenario is an operator's error (exit 2) with the file, the key and a way out."""
    path = _written(tmp_path, f'settings = "run.toml"\n{text}')
    with pytest.raises(ConfigError) as caught:
        load_settings(Scenario, path)
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)
    assert key in str(caught.value)
    assert says in str(caught.value)


def test_scenario_without_a_run_is_refused(tmp_path: Path) -> None:
    """A fleet that has nothing to learn is a mistake."""
    with pytest.raises(ConfigError, match="nothing to learn"):
        load_settings(Scenario, _written(tmp_path, "[devices.a]\n"))
