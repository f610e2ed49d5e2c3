"""Aggregation rules: many updates of a cohort become one delta. One family a file."""

from aggregator.rules.choice import RULES, rule_named
from aggregator.rules.mean import Mean
from aggregator.rules.qfedavg import QFedAvg
from aggregator.rules.rule import BLOCK_PARAMS, AggregationRule, Blocks, Delta, RuleState, weight_of

__all__ = [
    "BLOCK_PARAMS",
    "RULES",
    "AggregationRule",
    "Blocks",
    "Delta",
    "Mean",
    "QFedAvg",
    "RuleState",
    "rule_named",
    "weight_of",
]
