"""docker-compose.yml fits its scenario: as many containers as devices, within both versions of Compose."""

import re

import pytest

from shared.config import load_settings
from simulator.scenario import Scenario
from tests.docs.generated import ROOT

COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SCENARIO = ROOT / "examples" / "compose.toml"
SERVICE = re.compile(r"^  ([a-z]+):\n(.*?)(?=^  [a-z]+:\n|^\S|\Z)", re.MULTILINE | re.DOTALL)


def services() -> dict[str, str]:
    """The text of each service, by its name."""
    return dict(SERVICE.findall(COMPOSE.partition("\nservices:\n")[2]))


def test_each_group_of_the_scenario_is_a_service_of_as_many_containers() -> None:
    """A device that never comes would keep the chaos waiting; one too many would end with an error."""
    scenario = load_settings(Scenario, SCENARIO)
    devices = {name: text for name, text in services().items() if "*device" in text}
    assert set(devices) == set(scenario.devices)
    for name, text in devices.items():
        assert f'"--group", "{name}"' in text
        assert f"scale: {scenario.counts[name]}\n" in text
        assert re.search(r"^    cpus: [\d.]+$", text, re.MULTILINE)
        assert re.search(r"^    mem_limit: \d+[mg]$", text, re.MULTILINE)


@pytest.mark.parametrize("word", ["ports:", "docker.sock", "privileged", "network_mode", "version:", "deploy:"])
def test_file_opens_nothing_and_is_for_both_versions(word: str) -> None:
    """No port to the world, no Docker socket, and nothing that only one version of Compose heeds."""
    assert word not in re.sub(r"#.*", "", COMPOSE)


def test_parts_are_broker_aggregator_chaos_and_devices() -> None:
    """The scenario under chaos has every kind of fault of the fleet."""
    assert {"broker", "aggregator", "chaos"} <= set(services())
    scenario = load_settings(Scenario, SCENARIO)
    assert {fault.kind for fault in scenario.faults} == {"broker_restart", "partition", "aggregator_restart"}
