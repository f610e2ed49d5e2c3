from pathlib import Path

import pytest

from edge_client.conditions import read_conditions


def a_battery(folder: Path, **files: str) -> Path:
    """A power supply as Linux shows it."""
    supply = folder / "BAT0"
    supply.mkdir(parents=True)
    for name, text in files.items():
        (supply / name).write_text(text + "\n")
    return folder


def test_memory_is_what_linux_calls_available(tmp_path: Path) -> None:
    """KB in /proc/meminfo, bytes here."""
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable:     250 kB\n")
    assert read_conditions(memory=tmp_path / "meminfo", power=tmp_path).free_memory_bytes == 250 * 1024


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: many kB\n", "MemTotal: 5 kB\n"])
def test_unreadable_memory_is_unknown(tmp_path: Path, text: str) -> None:
    """What is not there or no number is unknown, never an error."""
    (tmp_path / "meminfo").write_text(text)
    assert read_conditions(memory=tmp_path / "meminfo", power=tmp_path).free_memory_bytes is None


@pytest.mark.parametrize(
    ("status", "is_charging"), [("Charging", True), ("Full", True), ("Not charging", True), ("Discharging", False)]
)
def test_battery_is_read(tmp_path: Path, status: str, is_charging: bool) -> None:
    """Charge in [0, 1], and whether it runs on mains."""
    power = a_battery(tmp_path / "power", type="Battery", capacity="42", status=status)
    (power / "AC").mkdir()
    (power / "AC" / "type").write_text("Mains\n")
    found = read_conditions(memory=tmp_path / "none", power=power)
    assert (found.battery, found.is_charging) == (0.42, is_charging)


def test_machine_without_a_battery_is_unknown(tmp_path: Path) -> None:
    """A server has none, and a container may show a broken one."""
    found = read_conditions(memory=tmp_path / "none", power=tmp_path / "none")
    assert (found.battery, found.is_charging, found.free_memory_bytes) == (None, None, None)
    power = a_battery(tmp_path / "power", type="Battery", capacity="?")
    assert read_conditions(memory=tmp_path / "none", power=power).battery is None


def test_this_machine_can_be_read() -> None:
    """A reading of the real machine never raises."""
    load = read_conditions().load
    assert load is None or load >= 0
