"""What of the settings may be a user's own, loaded: who is asked, how updates combine, how the model moves, how fast.

Not here: how each is loaded (`rule_loading.py`, `schedule_loading.py`, `server_optimizers/choice.py`).
"""

from dataclasses import dataclass
from pathlib import Path

from aggregator.config import Settings
from aggregator.learning_rates import LearningRates
from aggregator.rule_loading import load_rule
from aggregator.rules import CohortRule, load_cohort_rule
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
        over_cohort: how updates become one; None: by a streaming rule.
    """

    rule: SelectionRule
    optimizer: ServerOptimizer
    rates: LearningRates
    over_cohort: CohortRule | None


def load_plug_ins(settings: Settings, folder: Path) -> PlugIns:
    """Return what the settings name.

    Args:
        settings: of the run.
        folder: where a user's modules are looked for first: the TOML's.

    Raises:
        ConfigError: one cannot be imported, or lacks a method; a schedule gives no rate for the first version; a rule
            refuses as many reports as a round may close with.
    """
    rule = load_rule(settings.selection, folder)
    server = settings.server
    over_cohort = load_cohort_rule(server.rule, folder)
    if over_cohort is not None:
        over_cohort.check(settings.round.quorum_count)
    return PlugIns(rule, load_optimizer(server.optimizer, folder), load_rates(settings, folder), over_cohort)
