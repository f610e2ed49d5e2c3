from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.config import Settings


def settings(server: dict[str, Any], **tables: Any) -> Settings:
    """Return settings with a table `server`; ten reports close a round, eight may."""
    whole = {"task": "t:task", "round": {"report_goal": 10}, "stop": {"rounds": 1}, "server": server}
    return Settings.model_validate({**whole, **tables})


def test_a_robust_rule_counts_every_update_once() -> None:
    """Filled where it is unset, in every mode."""
    for mode in ("sync", "semi-sync", "async"):
        found = settings({"rule": "median"}, round={"report_goal": 10, "mode": mode}).server
        assert (found.weighting, found.normalize) == ("uniform", "none")
    assert settings({"rule": "geometric-median"}).server.weighting == "uniform"
    assert settings({"rule": {"name": "geometric-median"}, "weighting": "examples"}).server.weighting == "examples"
    assert settings({"rule": "mean"}).server.weighting == "examples"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"rule": "median", "weighting": "examples"}, "counts every update once"),
        ({"rule": "median", "reweight": "finishing"}, "server.reweight = finishing cannot hold"),
        ({"rule": "geometric-median", "normalize": "steps"}, "use normalize = none"),
        ({"rule": {"name": "krum", "byzantine": 3}}, "krum over 8 updates cannot withstand server.rule.byzantine = 3"),
        ({"rule": {"name": "bulyan", "byzantine": 2}}, "asks for 11"),
        ({"rule": {"name": "trimmed-mean", "byzantine": 4}}, "n > 2f asks for 9"),
        ({"rule": {"name": "median", "mixing": "nearest", "byzantine": 4}}, "nearest-neighbour mixing over 8"),
        ({"rule": {"name": "my:rule", "mixing": "nearest", "byzantine": 4}}, "nearest-neighbour mixing over 8"),
    ],
)
def test_what_cannot_hold_is_refused_before_the_run(server: dict[str, Any], said: str) -> None:
    """By name, with what to change: a round may close with the quorum's eight reports."""
    with pytest.raises(ValidationError, match=said):
        settings(server)
