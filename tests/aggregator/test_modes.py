"""Modes: shorthand for knobs, each of which can be set by itself."""

import json
from typing import Any

import pytest

from aggregator.config import Settings, Window
from shared.config import settings_json

TABLES: dict[str, Any] = {"task": "t:t", "stop": {"rounds": 1}}


def settings(round_: dict[str, Any], **tables: dict[str, Any]) -> Settings:
    """Return settings whose goal is 10."""
    return Settings.model_validate({**TABLES, **tables, "round": {"report_goal": 10, **round_}})


@pytest.mark.parametrize(
    ("mode", "knobs"),
    [
        ("sync", (1.3, None, 0.8, 0, None, "none")),
        ("semi-sync", (1.3, None, 0.8, 1, 300.0, "steps")),
        ("async", (None, 20, 1.0, 50, None, "none")),
    ],
)
def test_mode_fills_what_is_unset(mode: str, knobs: tuple[object, ...]) -> None:
    """As the table of the protocol has it."""
    made = settings({"mode": mode})
    knobs_of_round = made.round.over_selection, made.round.outstanding, made.round.quorum, made.round.max_staleness
    assert (*knobs_of_round, made.training.max_seconds, made.server.normalize) == knobs


@pytest.mark.parametrize("mode", ["sync", "semi-sync", "async"])
def test_journalled_settings_are_read_back_as_they_are(mode: str) -> None:
    """With every knob written out: another default of a later version changes no run that was begun."""
    made = settings({"mode": mode})
    written = json.loads(settings_json(made))
    assert Settings.model_validate(written) == made
    assert written["round"]["max_staleness"] == made.round.max_staleness


def test_knob_that_is_set_goes_over_its_mode() -> None:
    """Anything between."""
    made = settings(
        {"mode": "semi-sync", "max_staleness": 3, "outstanding": 15, "quorum": 0.5, "window_s": {"min": 1, "max": 90}},
        training={"max_seconds": 20},
        server={"normalize": "none"},
    )
    assert (made.round.over_selection, made.round.outstanding) == (None, 15)
    assert (made.round.max_staleness, made.round.quorum) == (3, 0.5)
    assert (made.training.max_seconds, made.server.normalize) == (20, "none")


def test_work_of_equal_seconds_follows_the_window() -> None:
    """Half of its upper bound, however the window is given."""
    for window_s in ({"min": 1, "max": 90}, Window(min=1, max=90)):
        assert settings({"mode": "semi-sync", "window_s": window_s}).training.max_seconds == 45.0


def test_leases_that_are_out_depend_on_what_was_accepted_only_without_outstanding() -> None:
    """1.3 for each report still wanted, rounded up; or always as many."""
    sync, constant = settings({}).round, settings({"mode": "async", "outstanding": 7}).round
    assert [sync.n_leases(n) for n in (0, 1, 9, 10)] == [13, 12, 2, 0]
    assert [constant.n_leases(n) for n in (0, 1, 9, 10)] == [7, 7, 7, 7]
