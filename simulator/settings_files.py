"""The settings of a rehearsal's processes, as TOML files that a person can read and use again.

Not here: which settings there are, and what is in a scenario.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shared.config import settings_json
from simulator.scenario import PlannedDevice

__all__ = ["aggregator_toml", "as_toml", "host_toml"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(table: Mapping[str, Any]) -> str:
    """Return a table as TOML, one key a line; what is None is left out."""
    return "".join(f"{_key(name)} = {_value(value)}\n" for name, value in table.items() if value is not None)


def aggregator_toml(settings: BaseModel, *, broker_url: str) -> str:
    """Return the aggregator's settings as they are, but with the rehearsal's broker."""
    return as_toml({**json.loads(settings_json(settings)), "broker": {"url": broker_url}})


def host_toml(devices: Sequence[PlannedDevice], urls: Mapping[str, str], *, task: str, fleet: str, folder: Path) -> str:
    """Return the settings of one process with several devices.

    Args:
        devices: who lives in it.
        urls: of each device's own way to the broker.
        task: "module:name".
        fleet: as in the aggregator's settings.
        folder: where devices keep their state.
    """
    tables = [
        {
            "id": device.id,
            "url": urls[device.id],
            "partition": list(device.partition),
            "device_class": device.class_name or None,
            "keeps_state": None if device.keeps_state else False,
        }
        for device in devices
    ]
    return as_toml({"task": task, "fleet": fleet, "folder": str(folder), "until_finished": False, "devices": tables})


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    match value:
        case Mapping():
            inner = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items() if each is not None)
            return f"{{ {inner} }}"
        case list() | tuple():
            return f"[{', '.join(_value(each) for each in value)}]"
        case _:  # scalars are written as in JSON; TOML knows no surrogate pairs, so text stays as it is
            return json.dumps(value, ensure_ascii=False)
