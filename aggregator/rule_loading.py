"""The selection rule that the settings name: one of ours, or a user's own by "module:name".

A user's own is loaded into the aggregator's process, which keeps torch out: put it into a file of its own, beside the
TOML.
"""

from pathlib import Path
from typing import cast

from aggregator.config import SelectionSettings
from aggregator.drawing import built_in_rule
from aggregator.selection import SelectionRule
from shared.named_objects import load_named

__all__ = ["load_rule"]


def load_rule(settings: SelectionSettings, folder: Path) -> SelectionRule:
    """Return the rule that the settings name.

    Args:
        settings: `[selection]`.
        folder: where a user's module is looked for first: the TOML's.

    Raises:
        ConfigError: it cannot be imported, or has no `draw`.
    """
    if ":" not in settings.rule:
        return built_in_rule(settings)
    return cast(SelectionRule, load_named("selection rule", settings.rule, folder, ("draw",), example="my_rule:rule"))
