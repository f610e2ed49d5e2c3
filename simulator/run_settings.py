"""The settings of the run that a scenario describes: a file of the aggregator's, and keys of theirs over it.

Not here: what a scenario is (`scenario.py`).
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator.config import Settings
from shared.algorithms import STATEFUL
from shared.codecs import CODECS
from shared.config import load_settings
from shared.errors import ConfigError
from simulator.scenario import Scenario, dotted

__all__ = ["settings_of"]


def settings_of(fleet: Scenario, scenario: Path, folder: Path | None) -> tuple[Settings, Path]:
    """Return the settings of the run, and the folder in which its task may lie.

    Args:
        fleet: the scenario.
        scenario: its file.
        folder: where runs lie, in place of the settings' own.

    Raises:
        ConfigError: a key of them is wrong, or no device of the fleet could ever take part in such a run.
    """
    path = None if fleet.settings is None else scenario.parent / fleet.settings
    ours = {"output.folder": folder, "seed": fleet.seed}
    overrides: dict[str, Any] = {**dotted(fleet.run), **{key: each for key, each in ours.items() if each is not None}}
    try:
        settings = load_settings(Settings, path, overrides, with_environment=False)
    except ConfigError as error:
        where = f"{scenario}, [run]" if path is None else f"{scenario}, [run] over {path}"
        raise ConfigError(error.what, where=where, hint=error.hint) from error
    _refuse_a_fleet_without_state(fleet, settings, scenario)
    if "run" not in fleet.run:  # of its own each time: a run that has its name already would be resumed
        name = re.sub(r"[^a-z0-9]+", "-", scenario.stem.lower()).strip("-")[:40] or "rehearsal"
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        settings = settings.model_copy(update={"run": f"{name}-{stamp}"})
    return settings, (path or scenario).parent


def _refuse_a_fleet_without_state(fleet: Scenario, settings: Settings, scenario: Path) -> None:
    """Refuse a run that needs devices which keep state, on a fleet in which none does: it would wait for ever."""
    if any(group.keeps_state for group in fleet.devices.values()):
        return
    training = settings.training
    codec = CODECS.get(training.codec)
    if training.algorithm in STATEFUL:
        needs, instead = f"training.algorithm = {training.algorithm!r}", "fedavg or fedprox, which need none"
    elif codec is not None and codec.needs_feedback:
        needs, instead = f"training.codec = {training.codec!r}", '"auto", or another that needs none'
    else:
        return
    groups = ", ".join(f"devices.{name}" for name in fleet.devices)
    raise ConfigError(
        f"{groups}: keeps_state = false everywhere, and {needs} needs devices that keep state: no round could begin",
        where=str(scenario),
        hint=f"leave keeps_state out of the groups that may keep some, or choose {instead}",
    )
