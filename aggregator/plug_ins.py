"""What of the settings may be a user's own, loaded: who is asked, how the model moves, and at which rates.

Not here: how each is loaded (`rule_loading.py`, `schedule_loading.py`, `server_optimizers/choice.py`).
"""

from dataclasses import dataclass
from pathlib import Path

from aggregator.config import Settings
from aggregator.learning_rates import LearningRates
from aggregator.rule_loading import load_rule
from aggregator.schedule_loading import load_rates
from aggregator.selection import SelectionRule
from aggregator.server_optimizers import ServerOptimizer, load_optimizer

__all__ = ["PlugIns", "load_plug_ins"]


@dataclass(frozen=True, slots=True)
class PlugIns:
    """What the settings name, ours or a user's.

    Args:
        rule: who is asked.
        optimizer: moves the model.
        rates: with which devices train, and the server steps.
    """

    rule: SelectionRule
    optimizer: ServerOptimizer
    rates: LearningRates


def load_plug_ins(settings: Settings, folder: Path) -> PlugIns:
    """Return what the settings name.

    Args:
        settings: of the run.
        folder: where a user's modules are looked for first: the TOML's.

    Raises:
        ConfigError: one cannot be imported, or lacks a method; a schedule gives no rate for the first version.
    """
    rule = load_rule(settings.selection, folder)
    return PlugIns(rule, load_optimizer(settings.server.optimizer, folder), load_rates(settings, folder))
