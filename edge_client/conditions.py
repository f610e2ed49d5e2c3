"""What a device can cheaply say about itself: free memory, load, battery.

Read from /proc and /sys; what cannot be read there is unknown, which is None, and is not sent. One reading takes well
under a millisecond.

Not here: what follows from it (`eligibility.py`).
"""

import os
from pathlib import Path

from edge_client.eligibility import Conditions

__all__ = ["read_conditions"]

_MEMORY = Path("/proc/meminfo")
_POWER = Path("/sys/class/power_supply")


def read_conditions(*, memory: Path = _MEMORY, power: Path = _POWER) -> Conditions:
    """Look at the machine.

    Args:
        memory: in the form of Linux's /proc/meminfo.
        power: in the form of Linux's /sys/class/power_supply.
    """
    battery, is_charging = _read_battery(power)
    return Conditions(
        free_memory_bytes=_read_free_memory(memory), load=_read_load(), battery=battery, is_charging=is_charging
    )


def _read_free_memory(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _read_load() -> float | None:
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    except OSError:
        return None


def _read_battery(power: Path) -> tuple[float | None, bool | None]:
    try:
        supplies = sorted(power.iterdir())
    except OSError:
        return None, None
    for supply in supplies:
        try:
            if (supply / "type").read_text().strip() != "Battery":
                continue
            charge = int((supply / "capacity").read_text()) / 100
            status = (supply / "status").read_text().strip()
        except (OSError, ValueError):
            continue
        return min(1.0, max(0.0, charge)), status in ("Charging", "Full", "Not charging")
    return None, None
