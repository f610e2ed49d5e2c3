"""What a device can cheaply say about itself: memory, load, battery, mains, temperature, link, the age of its data.

Read from Linux's /proc and /sys; what cannot be read there is unknown, which is None, and is not sent. One reading is
cheap. Linux does not say whether a link costs by the byte: a link is metered when the interface of the
default route has a name that the operator, or the list of modems' names, says is.

Not here: what follows from it (`eligibility.py`).
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from edge_client.eligibility import Conditions

__all__ = ["MachineFiles", "read_conditions"]

PLAUSIBLE_C = (-40.0, 150.0)
"""Sensors that are not connected read as zero kelvin or as their largest number."""
MOST_DATA_FILES = 10_000
"""Of a data folder; more are not looked at, for a reading must stay cheap."""


class MachineFiles:
    """Where Linux tells what; a test lays out a tree of its own.

    Args:
        root: of /proc and /sys.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.memory = root / "proc/meminfo"
        self.route = root / "proc/net/route"
        self.power = root / "sys/class/power_supply"
        self.thermal = root / "sys/class/thermal"


def read_conditions(
    *,
    files: MachineFiles | None = None,
    data: Path | None = None,
    metered_interfaces: Sequence[str] = (),
    wall: Callable[[], float] = time.time,
) -> Conditions:
    """Look at the machine.

    Args:
        files: where to look; default: this machine's.
        data: the device's own, a file or a folder; None: it has none that could be looked at.
        metered_interfaces: names of network interfaces, with `*`, that cost by the byte.
        wall: Unix time.
    """
    files, now = files or MachineFiles(), wall()
    battery, is_charging = _read_power(files.power)
    local = time.localtime(now)
    return Conditions(
        free_memory_bytes=_read_free_memory(files.memory),
        load=_read_load(),
        battery=battery,
        is_charging=is_charging,
        temperature_c=_read_temperature(files.thermal),
        is_metered=_read_metered(files.route, metered_interfaces),
        data_age_s=_read_age(data, now),
        hour=local.tm_hour + local.tm_min / 60 + local.tm_sec / 3600,
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


def _read_power(power: Path) -> tuple[float | None, bool | None]:
    """Return the charge of the machine's emptiest battery, and whether it is on mains or being charged."""
    charges: list[float] = []
    facts: list[bool] = []
    for supply in _folders(power):
        if _text(supply / "scope") == "Device":  # a mouse's
            continue
        match _text(supply / "type"):
            case "Battery":
                with suppress(ValueError):
                    charges.append(min(1.0, max(0.0, int(_text(supply / "capacity") or "") / 100)))
                if (status := _text(supply / "status")) is not None:
                    facts.append(status in ("Charging", "Full", "Not charging"))
            case "Mains" | "USB":
                facts += [_text(supply / "online") == "1"] if _text(supply / "online") is not None else []
    return min(charges, default=None), any(facts) if facts else None


def _read_temperature(thermal: Path) -> float | None:
    found: list[float] = []
    for zone in _folders(thermal):
        if zone.name.startswith("thermal_zone"):
            try:
                celsius = int(_text(zone / "temp") or "") / 1000
            except ValueError:
                continue
            if PLAUSIBLE_C[0] <= celsius <= PLAUSIBLE_C[1]:
                found.append(celsius)
    return round(max(found), 1) if found else None


def _read_metered(route: Path, metered_interfaces: Sequence[str]) -> bool | None:
    for line in (_text(route) or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000":  # destination and mask of the default route
            return any(fnmatchcase(fields[0], pattern) for pattern in metered_interfaces)
    return None


def _read_age(data: Path | None, now: float) -> float | None:
    if data is None:
        return None
    newest = max(_written_at(data), default=None)
    return None if newest is None else round(max(0.0, now - newest), 1)


def _written_at(data: Path) -> Iterator[float]:
    """Yield when each file of the data was written last; a folder that cannot be read yields nothing."""
    every = (Path(folder) / name for folder, _, names in os.walk(data) for name in names)
    for path in islice(every, MOST_DATA_FILES) if data.is_dir() else (data,):
        with suppress(OSError):  # deleted meanwhile
            yield path.stat().st_mtime


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
