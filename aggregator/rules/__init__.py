"""Aggregation rules: many updates of a cohort become one delta. One family a file."""

from aggregator.rules.choice import cohort_rule, load_cohort_rule, rule_of
from aggregator.rules.cohort import Cohort, CohortRule, Rows
from aggregator.rules.mean import Mean
from aggregator.rules.qfedavg import QFedAvg
from aggregator.rules.rule import (
    BLOCK_PARAMS,
    AggregationRule,
    Blocks,
    Delta,
    OpenRound,
    RuleState,
    clip_scale,
    weight_of,
)

__all__ = [
    "BLOCK_PARAMS",
    "AggregationRule",
    "Blocks",
    "Cohort",
    "CohortRule",
    "Delta",
    "Mean",
    "OpenRound",
    "QFedAvg",
    "Rows",
    "RuleState",
    "clip_scale",
    "cohort_rule",
    "load_cohort_rule",
    "rule_of",
    "weight_of",
]
