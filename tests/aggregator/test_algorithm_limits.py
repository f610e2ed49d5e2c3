"""What SCAFFOLD and FedDyn ask of the rest of the settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from aggregator.config import Settings
from tests.aggregator.builders import some_settings

TRAINING: dict[str, dict[str, Any]] = {
    "scaffold": {"algorithm": "scaffold"},
    "feddyn": {"algorithm": "feddyn", "alpha": 0.1},
}


def settings_of(algorithm: str, **tables: Any) -> Settings:
    """Settings with an algorithm."""
    return some_settings(**{**tables, "training": {**TRAINING[algorithm], **tables.get("training", {})}})


FAIR = {"algorithm": "qfedavg", "q": 1.0}


@pytest.mark.parametrize("mode", ["sync", "semi-sync", "async"])
def test_qfedavg_weighs_devices_alike_unless_told_otherwise(mode: str) -> None:
    """In every mode, late updates or not; it has a mean of its own, and divides by no steps."""
    rounds = {"mode": mode, "over_selection": None} if mode == "async" else {"mode": mode}
    settings = some_settings(round=rounds, training=FAIR)
    assert (settings.server.weighting, settings.server.normalize) == ("uniform", "none")
    assert (settings.round.max_staleness > 0) == (mode != "sync")
    assert some_settings(training=FAIR, server={"weighting": "examples"}).server.weighting == "examples"


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"training": FAIR, "server": {"normalize": "steps"}}, "use normalize = none"),
        ({"training": FAIR, "server": {"clip_norm": 2.0}}, "server.clip_norm = 2.0 cannot hold .* use max_norm"),
        ({"training": FAIR, "server": {"population": 9}}, "server.population is of scaffold and feddyn alone"),
        ({"training": {"algorithm": "qfedavg"}}, "qfedavg needs q: 0.1 to 5"),
        ({"training": {"q": 1.0}}, "q is of qfedavg alone"),
        ({"training": {**FAIR, "q": -1.0}}, "q\n"),
    ],
)
def test_what_cannot_hold_with_qfedavg_is_refused(tables: dict[str, Any], said: str) -> None:
    """With what to change."""
    with pytest.raises(ValidationError, match=said):
        some_settings(**tables)


@pytest.mark.parametrize("algorithm", TRAINING)
@pytest.mark.parametrize("mode", ["sync", "semi-sync"])
def test_what_is_unset_is_filled(algorithm: str, mode: str) -> None:
    """Nobody has to know what it needs; the mode's own knobs stay."""
    settings = settings_of(algorithm, round={"mode": mode})
    assert (settings.server.weighting, settings.round.max_staleness) == ("uniform", 0)
    assert settings.server.normalize == ("steps" if (mode, algorithm) == ("semi-sync", "scaffold") else "none")
    assert settings.training.max_seconds == (50.0 if mode == "semi-sync" else None)


@pytest.mark.parametrize("algorithm", TRAINING)
@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"round": {"max_staleness": 1}}, "round.max_staleness = 1 (round.mode = sync) cannot hold with"),
        ({"round": {"max_staleness": 1}}, "use max_staleness = 0"),
        ({"round": {"mode": "semi-sync", "max_staleness": 1}}, "use max_staleness = 0"),
        ({"round": {"mode": "async", "over_selection": None}}, "(round.mode = async) cannot hold with"),
        ({"round": {"mode": "async", "over_selection": None}}, "use mode = sync"),
        ({"server": {"weighting": "examples"}}, "use weighting = uniform"),
        ({"server": {"reweight": "finishing"}}, "use reweight = off"),
    ],
)
def test_what_cannot_hold_is_refused_with_what_to_change(algorithm: str, tables: dict[str, Any], said: str) -> None:
    """By its key, for a sum that is not the sum of what devices keep would lead the model astray in silence."""
    with pytest.raises(ValidationError) as caught:
        settings_of(algorithm, **tables)
    assert said in str(caught.value)
    assert f"training.algorithm = {algorithm}" in str(caught.value)


def test_normalising_holds_with_scaffold_alone() -> None:
    """A variate is a mean gradient, whatever the steps; FedDyn's g moves by all that was sent."""
    assert settings_of("scaffold", server={"normalize": "steps"}).server.normalize == "steps"
    with pytest.raises(ValidationError, match="use normalize = none"):
        settings_of("feddyn", server={"normalize": "steps"})


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"training": {"algorithm": "feddyn"}}, "feddyn needs alpha: 0.01 to 1"),
        ({"training": {"algorithm": "fednova"}}, 'server.normalize = "steps"'),
        ({"training": {"algorithm": "scaffold", "alpha": 0.1}}, "alpha is of feddyn alone, and algorithm = scaffold"),
        ({"training": {"algorithm": "feddyn", "alpha": 0}}, "greater than or equal to 0.000000000001"),
        ({"training": {"algorithm": "feddyn", "alpha": 30}}, "alpha x learning_rate = 3 is over 1"),
        ({"server": {"population": 9}}, "server.population is of scaffold and feddyn alone, and algorithm = fedavg"),
        ({"server": {"clip_norm": 2.0, "max_norm": 1.0}}, "clip_norm = 2 never acts"),
    ],
)
def test_number_of_another_algorithm_is_refused(tables: dict[str, Any], said: str) -> None:
    """And one that is missing is asked for; an algorithm that is a way to combine is named by its key."""
    with pytest.raises(ValidationError) as caught:
        some_settings(**tables)
    assert said in str(caught.value)


def test_tables_that_are_none_are_left_for_others_to_refuse() -> None:
    """The error names the table, not us."""
    given = {"task": "m:t", "round": {"report_goal": 1}, "training": 3, "stop": {"rounds": 1}}
    with pytest.raises(ValidationError, match="training"):
        Settings.model_validate(given)
