"""What a rule over the whole cohort asks of the rest of the settings.

A robust rule counts every update once: a weight would be another thing to lie about. What is unset is filled so, also
for the geometric median and a user's own rule, which know weights; what is set and cannot hold is refused, with what to
change. So is a quorum that is too small for the rule's theorem: a round never closes with fewer, so that no version
fails for it.

Pure.
"""

from collections.abc import Mapping
from typing import Any

from aggregator.learning_settings import ServerSettings
from aggregator.rule_settings import STREAMING_RULES, RuleSettings
from aggregator.rules import cohort_rule
from aggregator.rules.median import Median
from shared.errors import ConfigError

__all__ = ["filled_for_rule", "rule_contradiction"]


def filled_for_rule(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with what a rule over the cohort needs in the place of what is unset.

    Args:
        given: as the configuration has it; what is no table is left for others to refuse.
    """
    server = given.get("server", {})
    if not isinstance(server, Mapping):
        return dict(given)
    name = _name_of(server.get("rule"))
    if name is None or name in STREAMING_RULES:
        return dict(given)
    wanted = {"normalize": "none", "weighting": "uniform"}
    return {**given, "server": {**wanted, **{key: value for key, value in server.items() if value is not None}}}


def rule_contradiction(server: ServerSettings, *, quorum: int) -> str | None:
    """Return what cannot hold with the rule, and what to change; None: all of it can.

    Args:
        server: the table.
        quorum: reports with which a round may close.
    """
    rule = server.rule
    if rule.is_streaming:
        return None
    if server.normalize != "none":
        return (
            f"server.normalize = {server.normalize} cannot hold with server.rule = {rule.name}: steps are "
            "normalised in a mean; use normalize = none"
        )
    for key, value, plain in (("weighting", server.weighting, "uniform"), ("reweight", server.reweight, "off")):
        if value != plain and not _knows_weights(rule.name):
            return (
                f"server.{key} = {value} cannot hold with server.rule = {rule.name}, which counts every update once: "
                f"use {key} = {plain}, or the rule geometric-median, which knows weights"
            )
    is_own = ":" in rule.name  # what it asks for is asked once it is loaded; what mixing does, already
    try:
        cohort_rule(rule, Median() if is_own else None).check(quorum)
    except ConfigError as error:
        return f"round: a round may close with {quorum} reports; {error}"
    return None


def _name_of(rule: object) -> str | None:
    if isinstance(rule, RuleSettings):
        return rule.name
    name = rule.get("name") if isinstance(rule, Mapping) else rule
    return name if isinstance(name, str) else None


def _knows_weights(rule: str) -> bool:
    return rule == "geometric-median" or ":" in rule
