"""What it means for a run that its settings are no longer those it was begun or served with.

Most settings may change between two starts: the change is journalled, and holds at once, but for what was settled
before: work that is given out, and updates that are accepted, keep the values that they were given with. A few cannot
change, for what they decide has happened: the devices that hold leases listen in the fleet they were leased in, the
first model was drawn by the seed. Compared are the settings as they are journalled, so no secret is ever shown.

Pure.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shared.errors import ConfigError

__all__ = ["FIXED", "changed", "is_in_given_work", "refuse_fixed"]

FIXED: Mapping[str, str] = MappingProxyType(
    {
        "fleet": "its devices, and the leases they hold, are in that fleet",
        "run": "devices hold leases in that name",
        "seed": "its first model and its draws so far came from that seed",
        "server.init_from": "it has its first model already",
        "training.alpha": "what its devices keep was made with it",
        "training.algorithm": "what its devices still send of the one cannot be added to work of the other",
    }
)
"""What cannot change within a run, and why."""
_OF_THE_STEP = ("server.normalize", "server.population", "training.q")
_ACCEPTED_FROM_NOW = "for updates that are accepted from now on"
_SINCE: Mapping[str, str] = MappingProxyType(
    {
        "round.window_s": "from the next window on",
        "round.max_examples": _ACCEPTED_FROM_NOW,
        "round.staleness_exponent": _ACCEPTED_FROM_NOW,
        "server.weighting": _ACCEPTED_FROM_NOW,
        "server.reweight": _ACCEPTED_FROM_NOW,
        "server.clip_norm": _ACCEPTED_FROM_NOW,
        "server.max_norm": _ACCEPTED_FROM_NOW,
        "evaluation": "from the next evaluation on",
    }
)
"""What does not hold at once: a setting, or all of a table."""


def changed(old: Mapping[str, Any], new: Mapping[str, Any], *, building: int) -> dict[str, str]:
    """Return each setting that differs, by its dotted key, as "old -> new (from when on)".

    Args:
        old: as journalled.
        new: as they are now, without secrets.
        building: the version that comes next.
    """
    algorithm = new.get("training", {}).get("algorithm", "")
    return {
        key: f"{before} -> {after} ({_since(key, building, algorithm)})"
        for key, (before, after) in sorted(_differences(old, new, "").items())
    }


def is_in_given_work(key: str, algorithm: str) -> bool:
    """Whether a setting travels with the work: what is given out already keeps the value it was given with."""
    is_of_training = key.partition(".")[0] == "training"
    return (is_of_training and not _is_of_the_step(key, algorithm)) or key == "transfer.max_update_bytes"


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


def _is_of_the_step(key: str, algorithm: str) -> bool:
    """Whether the server steps with it when it makes a version; with fedsgd, devices leave their rate to it."""
    is_rate = key == "training.learning_rate" or key.startswith("training.schedule")
    is_of_server = key.startswith(("server.optimizer", "server.rule")) or key in _OF_THE_STEP
    return is_of_server or (is_rate and algorithm == "fedsgd")


def _since(key: str, building: int, algorithm: str) -> str:
    """Return from when on a change holds, in words."""
    if key in FIXED:  # it was written down, or left out, after it had its effect
        return "without effect"
    if key == "server.optimizer.name":
        return f"from version {building} on, with nothing that the one before has kept"
    if _is_of_the_step(key, algorithm):
        return f"from version {building} on"
    if is_in_given_work(key, algorithm):
        return "in work that is given out from now on"
    table, _, rest = key.partition(".")
    return _SINCE.get(".".join((table, *rest.split(".")[:1]))) or _SINCE.get(table) or "at once"


def _differences(old: object, new: object, key: str) -> dict[str, tuple[object, object]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[object, object]] = {}
        for name in old.keys() | new.keys():
            found |= _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if old == new else {key: (old, new)}


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
