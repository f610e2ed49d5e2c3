from pathlib import Path

import pytest

from aggregator.config import Settings
from broker.link import Failures
from shared.config import load_settings
from shared.errors import ConfigError
from simulator.scenario import DeviceGroup, Scenario, dotted
from simulator.scenarios.device_classes import DeviceClass

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
        ('[devices.a]\nclass = "pi-9"', "devices.a.class", "no such class; there are pi-zero-2"),
        ('[devices.a]\nclas = "pi-4"', "devices.a.clas", "did you mean devices.a.class?"),
        ("[classes.mine]\nspread = 0.1\n[devices.a]", "classes.mine.seconds_per_batch", "is missing"),
        ("[classes.pi-4]\nseconds_per_batch = -1\n[devices.a]", "classes.pi-4.seconds_per_batch", "greater than 0"),
        ('[devices.a]\nlink = "wfi"', "devices.a.link", "there is no link 'wfi'; there are lan"),
        ('[devices.a.link]\nbase = "wfi"', "devices.a.link", "there is no link 'wfi'"),
        ("[devices.a.link]\nup_bytes_per_s = -5", "devices.a.link.up_bytes_per_s = -5", "greater than 0"),
        ('[devices.a]\navailability = "never"', "devices.a.availability", '"always"'),
        ("[devices.a.availability]\nhour = [[1, 2]]", "devices.a.availability.hour", "availability.hours?"),
        ("[devices.a.availability]\nhours = [[1, 1]]", "devices.a.availability.hours", "no span"),
        ("[devices.a.availability.charging]\nfrom = 22", "devices.a.availability.charging.to", "is missing"),
        ("n_devices = 10\n[devices.a]\nshare = 0.5\n[devices.b]\nshare = 0.4", "devices", "0.5 + 0.4 = 0.9, not to 1"),
        ("n_devices = 10\n[devices.a]\nshare = 1\ncount = 2", "devices.a", "count and share exclude each other"),
        ("n_devices = 10\n[devices.a]\nshare = 1\n[devices.b]\ncount = 2", "devices.b.share", "is missing"),
        ("n_devices = 10\n[devices.a]\nshare = 0.99\n[devices.b]\nshare = 0.01", "devices.b.share", "not one device"),
        ("[devices.a]\nshare = 1", "n_devices", "is missing"),
        ("n_devices = 3\n[devices.a]\ncount = 2", "n_devices = 3", "make 2"),
        ('[devices.a]\n[[faults]]\nkind = "partition"\nat_s = 1', "faults.0", "share"),
        ('[devices.a]\n[[faults]]\nkind = "flood"\nat_s = 1', "faults.0.kind", "broker_restart"),
        ("[devices.a.faults]\ndropout = 1.5", "devices.a.faults.dropout", "less than 1"),
        ('executor = "threads"\n[devices.a]', "executor", "'inline' or 'processes'"),
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


def test_shares_become_whole_devices() -> None:
    """By the largest remainder: 0.25, 0.25 and 0.5 of ten are 3, 2 and 5."""
    scenario = Scenario.model_validate(
        {"run": {"task": "m:t"}, "n_devices": 10, "devices": {n: {"share": s} for n, s in _SHARES.items()}}
    )
    assert scenario.counts == {"a": 3, "b": 2, "c": 5}
    assert [device.id for device in scenario.plan()][:4] == ["a-1", "a-2", "a-3", "b-1"]


_SHARES = {"a": 0.25, "b": 0.25, "c": 0.5}


def test_thirds_sum_to_one() -> None:
    """Nobody can write a third."""
    scenario = Scenario.model_validate(
        {"run": {"task": "m:t"}, "n_devices": 6, "devices": {n: {"share": 0.3333333} for n in "abc"}}
    )
    assert scenario.counts == {"a": 2, "b": 2, "c": 2}


def test_class_is_named_or_is_the_groups_own_name() -> None:
    """`[devices.pi-4]` needs no class; `[devices.porch]` has none unless it says so."""
    scenario = Scenario.model_validate(
        {
            "run": {"task": "m:t"},
            "classes": {"pi-4": {"seconds_per_batch": 0.5}, "mine": {"seconds_per_batch": 3}},
            "devices": {"pi-4": {}, "porch": {"class": "mine"}, "shed": {}},
        }
    )
    pi, porch, shed = scenario.plan()
    assert (pi.class_name, pi.device_class.seconds_per_batch, pi.device_class.memory_mb) == ("pi-4", 0.5, 2048)
    assert (porch.class_name, porch.device_class) == ("mine", DeviceClass(seconds_per_batch=3))
    assert (shed.class_name, shed.device_class) == ("", DeviceClass())


def test_fleet_that_is_too_large_to_rehearse_is_refused_there_alone() -> None:
    """Virtual time has room for more."""
    scenario = Scenario.model_validate({"run": {"task": "m:t"}, "devices": {"a": {"count": 1001}}})
    with pytest.raises(ConfigError, match=r"devices.a: 1001 devices"):
        scenario.check_rehearsable()
    assert len(scenario.plan()) == 1001
