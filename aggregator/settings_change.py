"""What it means for a run that its settings are no longer those it was begun or served with.

Most settings may change between two starts: the change is journalled, and holds from the version that is built next.
A few cannot, for what they decide has happened: the devices that hold leases listen in the fleet they were leased in,
the first model was drawn by the seed. Compared are the settings as they are journalled, so no secret is ever shown.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shared.errors import ConfigError

__all__ = ["FIXED", "changed", "refuse_fixed"]

FIXED: Mapping[str, str] = MappingProxyType(
    {
        "fleet": "its devices, and the leases they hold, are in that fleet",
        "run": "devices hold leases in that name",
        "seed": "its first model and its draws so far came from that seed",
        "server.init_from": "it has its first model already",
    }
)
"""What cannot change within a run, and why."""


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return each setting that differs, by its dotted key, as "old -> new".

    Args:
        old: as journalled.
        new: as they are now, without secrets.
    """
    return {key: f"{before} -> {after}" for key, (before, after) in sorted(_differences(old, new, "").items())}


def refuse_fixed(old: Mapping[str, Any], new: Mapping[str, Any], *, where: str) -> None:
    """Refuse a change that could not take effect.

    Args:
        old: as journalled.
        new: as they are now, without secrets.
        where: the run's folder.

    Raises:
        ConfigError: it names the setting, what it was, and why it cannot change.
    """
    for key, (before, after) in _differences(old, new, "").items():
        # what was left out may be written down later, what has had its effect may be left out
        if key in FIXED and after is not None and (before is not None or key == "server.init_from"):
            raise ConfigError(
                f"{key} = {after} cannot hold for this run, which was begun with {_shown(before)}: {FIXED[key]}",
                where=where,
                hint="bring the old value back, or give the new settings a run name of their own",
            )


def _differences(old: object, new: object, key: str) -> dict[str, tuple[object, object]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[object, object]] = {}
        for name in old.keys() | new.keys():
            found |= _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if old == new else {key: (old, new)}


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
