import os
from pathlib import Path

import pytest

from edge_client.conditions import MachineFiles, read_conditions
from edge_client.eligibility import Conditions


def machine(root: Path, **files: str) -> MachineFiles:
    """A tree as Linux shows it; the keys are paths below the root, with `__` for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return MachineFiles(root)


def seen(root: Path, **files: str) -> Conditions:
    """Return what is read of such a machine."""
    return read_conditions(files=machine(root, **files))


def a_supply(name: str, **files: str) -> dict[str, str]:
    """A power supply as Linux shows it."""
    return {f"sys__class__power_supply__{name}__{file}": text for file, text in files.items()}


def test_memory_is_what_linux_calls_available(tmp_path: Path) -> None:
    """KB in /proc/meminfo, bytes here."""
    found = seen(tmp_path, proc__meminfo="MemTotal: 1000 kB\nMemAvailable:     250 kB\n")
    assert found.free_memory_bytes == 250 * 1024


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: many kB\n", "MemTotal: 5 kB\n"])
def test_unreadable_memory_is_unknown(tmp_path: Path, text: str) -> None:
    """What is not there or no number is unknown, never an error."""
    assert seen(tmp_path, proc__meminfo=text).free_memory_bytes is None


@pytest.mark.parametrize(
    ("status", "is_charging"), [("Charging", True), ("Full", True), ("Not charging", True), ("Discharging", False)]
)
def test_battery_is_read(tmp_path: Path, status: str, is_charging: bool) -> None:
    """Charge in [0, 1], and whether it is being charged; a supply without a word is no supply."""
    battery = a_supply("BAT0", type="Battery", capacity="42", status=status)
    found = seen(tmp_path, **battery, **a_supply("AC", type="Mains"))
    assert (found.battery, found.is_charging) == (0.42, is_charging)


def test_mains_count_beside_a_battery_that_is_not_charged(tmp_path: Path) -> None:
    """A laptop that holds its battery at 80 % says that it discharges by a trickle."""
    battery = a_supply("BAT0", type="Battery", capacity="80", status="Discharging")
    assert seen(tmp_path, **battery, **a_supply("AC", type="Mains", online="1")).is_charging is True
    assert seen(tmp_path, **a_supply("AC", type="Mains", online="0")).is_charging is False


def test_battery_of_a_mouse_is_not_the_machines(tmp_path: Path) -> None:
    """Linux lists it with the others, with a scope of its own."""
    mouse = a_supply("A-mouse", type="Battery", scope="Device", capacity="5", status="Discharging")
    own = a_supply("BAT0", type="Battery", scope="System", capacity="90", status="Charging")
    found = seen(tmp_path, **mouse, **own)
    assert (found.battery, found.is_charging) == (0.9, True)


def test_emptiest_of_several_batteries_counts(tmp_path: Path) -> None:
    """One that does not say how full it is still says whether it is being charged."""
    full = a_supply("BAT0", type="Battery", capacity="90", status="Discharging")
    low = a_supply("BAT1", type="Battery", capacity="12", status="Discharging")
    mute = a_supply("BAT2", type="Battery", status="Charging")
    found = seen(tmp_path, **full, **low, **mute)
    assert (found.battery, found.is_charging) == (0.12, True)


def test_machine_without_a_battery_is_unknown(tmp_path: Path) -> None:
    """A server has none, and a container may show a broken one."""
    found = seen(tmp_path)
    assert (found.battery, found.is_charging, found.free_memory_bytes) == (None, None, None)
    assert seen(tmp_path, **a_supply("BAT0", type="Battery", capacity="?")).battery is None


def test_hottest_plausible_sensor_counts(tmp_path: Path) -> None:
    """Thousandths of a degree; sensors that are not connected say zero kelvin, or nothing that is a number."""
    zones = {"zone0": "45300", "zone1": "61000", "zone2": "-273150", "zone3": "2000000", "zone4": "N/A"}
    found = seen(tmp_path, **{f"sys__class__thermal__thermal_{zone}__temp": text for zone, text in zones.items()})
    assert found.temperature_c == 61.0
    assert seen(tmp_path / "none").temperature_c is None


@pytest.mark.parametrize(("interface", "is_metered"), [("wwan0", True), ("eth0", False), ("hotspot", True)])
def test_link_is_metered_by_the_name_of_its_interface(tmp_path: Path, interface: str, is_metered: bool) -> None:
    """The default route's, not any other's."""
    routes = [
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT",
        "wwan9 0000A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0",
        f"{interface} 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0",
    ]
    files = machine(tmp_path, proc__net__route="\n".join(routes))
    assert read_conditions(files=files, metered_interfaces=("wwan*", "hotspot")).is_metered is is_metered


def test_machine_without_a_route_does_not_know_its_link(tmp_path: Path) -> None:
    """Nor one whose table cannot be read."""
    assert seen(tmp_path).is_metered is None
    assert seen(tmp_path, proc__net__route="Iface Destination").is_metered is None


def test_age_of_data_is_that_of_the_newest_file(tmp_path: Path) -> None:
    """Of a folder with all that is in it, of a file itself; what is not there has none."""
    data = tmp_path / "data" / "deeper"
    data.mkdir(parents=True)
    for name, written_at in (("old", 1_000), ("new", 5_000)):
        (data / name).write_text("x")
        os.utime(data / name, (written_at, written_at))
    nothing = MachineFiles(tmp_path / "none")

    def age(path: Path | None) -> float | None:
        return read_conditions(files=nothing, data=path, wall=lambda: 6_000.0).data_age_s

    assert age(tmp_path / "data") == 1_000
    assert age(data / "old") == 5_000
    assert (age(tmp_path / "missing"), age(None)) == (None, None)


def test_this_machine_can_be_read() -> None:
    """A reading of the real machine never raises."""
    found = read_conditions()
    assert found.load is None or found.load >= 0
    assert found.hour is not None
    assert 0 <= found.hour < 24
