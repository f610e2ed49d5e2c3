"""Settings: what cannot hold together, or would not fit into a message, is refused before anything starts."""

from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.config import EvaluationSettings, RoundSettings, Settings, StopSettings, Window
from shared.config import settings_json
from tests.aggregator.builders import some_settings


@pytest.mark.parametrize(
    ("goal", "quorum", "expected"), [(10, 0.8, 8), (12, 0.8, 10), (1, 0.01, 1), (10, 0.7, 7), (3, 1.0, 3), (5, 0.2, 1)]
)
def test_quorum_is_a_share_of_the_goal_rounded_up(goal: int, quorum: float, expected: int) -> None:
    """0.7 of 10 is 7, although the float 0.7 x 10 is a little more."""
    assert RoundSettings(report_goal=goal, quorum=quorum).quorum_count == expected


@pytest.mark.parametrize(
    ("stop", "is_falling"),
    [
        ({"rounds": 1}, False),
        ({"rounds": 1, "metric": "val_loss"}, True),
        ({"at_most": 0.1, "metric": "wer"}, True),
        ({"at_least": 0.5, "metric": "loss_of_weight"}, False),
    ],
)
def test_metric_falls_when_it_is_a_loss_or_has_an_upper_bound(stop: dict[str, Any], is_falling: bool) -> None:
    """Unless a lower bound says otherwise."""
    assert StopSettings(**stop).is_falling is is_falling


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"stop": {"rounds": None}}, "would never end"),
        ({"stop": {"at_least": 0.5, "at_most": 0.1}}, "exclude each other"),
        ({"training": {"epochs": 1, "max_steps": 1}}, "exclude each other"),
        ({"training": {"algorithm": "fedsgd", "batch_size": 8}}, "one full pass"),
        ({"training": {"algorithm": "fedprox"}}, "fedprox needs mu"),
        ({"training": {"mu": 0.1}}, "mu is of fedprox alone, and algorithm = fedavg: leave it out"),
        ({"training": {"algorithm": "fedprox", "mu": 20, "learning_rate": 0.1}}, "mu x learning_rate = 2 is over 1"),
        ({"training": {"codec": "gzip"}}, "there are auto, float32, float16"),
        (
            {"training": {"codec": "top-1-percent", "algorithm": "scaffold"}},
            "no place for the delta in top-1-percent: use int8",
        ),
        ({"round": {"window_s": {"min": 2, "max": 1}}}, "min 2 is over max 1"),
        ({"transfer": {"inline_bytes": 65_537}}, "at most 65536"),
        ({"transfer": {"chunk_bytes": 100}}, "greater than or equal to 4096"),
        ({"round": {"quorum": 0}}, "greater than 0"),
        ({"round": {"quorum": 12}}, "12 of it is over the goal"),
        ({"round": {"max_staleness": -1}}, "greater than or equal to 0"),
        ({"round": {"lease_s": 101}}, "longer than the longest window, window_s.max = 100"),
        ({"round": {"outstanding": 8}}, "over_selection and outstanding exclude each other"),
        ({"round": {"mode": "async"}}, "async keeps `outstanding` of them out"),
        ({"round": {"mode": "async", "over_selection": None, "max_staleness": 0}}, "cannot hold with async"),
        ({"round": {"mode": "buffered"}}, "'sync', 'semi-sync' or 'async'"),
        ({"round": {"mode": "semi-sync"}, "training": {"max_seconds": 100}}, "still be at work when its round is over"),
        ({"round": {"mode": "semi-sync"}, "training": {"algorithm": "fedsgd"}}, "mode = semi-sync cannot hold"),
        ({"server": {"normalize": "steps"}, "training": {"algorithm": "fedsgd"}}, "normalize = steps cannot hold"),
        (
            {"round": {"mode": "async", "over_selection": None}, "training": {"algorithm": "fedsgd"}},
            "fedsgd is synchronous only",
        ),
        ({"round": {"max_staleness": 2}, "training": {"algorithm": "fedsgd"}}, "fedsgd is synchronous only"),
        ({"server": {"rule": "medain"}}, "there are mean"),
        ({"round": {"goal": 3}}, "Extra inputs"),
    ],
)
def test_contradiction_is_refused(tables: dict[str, Any], said: str) -> None:
    """With a sentence that says why."""
    with pytest.raises(ValidationError, match=said):
        some_settings(**tables)


@pytest.mark.parametrize(
    "tables",
    [
        {"round": {"lease_s": 1e10}},
        {"round": {"window_s": {"min": 1, "max": float("inf")}}},
        {"round": {"report_goal": 10**7}},
        {"training": {"epochs": 10**7}},
        {"training": {"max_steps": 10**10}},
        {"training": {"max_seconds": float("inf")}},
        {"training": {"batch_size": 2**60}},
        {"training": {"learning_rate": float("inf")}},
        {"training": {"options": {"x" * 65: 1.0}}},
        {"training": {"options": {"note": "x" * 300}}},
        {"training": {"options": {"nan": float("nan")}}},
        {"training": {"options": {f"option_{i}": 1.0 for i in range(65)}}},
        {"evaluation": {"window_s": 1e10}},
        {"transfer": {"check_in_interval_s": 1e10}},
        {"transfer": {"reconnect_window_s": 1e10}},
        {"transfer": {"max_update_bytes": 2**60}},
    ],
)
def test_what_no_message_can_carry_is_refused(tables: dict[str, Any]) -> None:
    """Here, and not when the first Assignment is made."""
    with pytest.raises(ValidationError):
        some_settings(**tables)


def test_settings_without_secrets_read_back_the_same() -> None:
    """What is journalled is the whole configuration."""
    settings = some_settings()
    assert Settings.model_validate_json(settings_json(settings)) == settings


def test_defaults_are_those_of_the_documentation() -> None:
    """Protocol and README name them."""
    knobs = RoundSettings(report_goal=10)
    assert (knobs.over_selection, knobs.quorum, knobs.extensions, knobs.max_staleness) == (1.3, 0.8, 2, 0)
    assert knobs.window_s == Window(min=60, max=600)
    transfer = some_settings(transfer={"chunk_bytes": 122_880, "inline_bytes": 32_768}).transfer
    assert (transfer.granted_bytes, transfer.granted_chunks, transfer.messages_per_s) == (16 * 2**20, 500, 5)
    assert (EvaluationSettings().central_every, EvaluationSettings().federated_every) == (1, 0)
