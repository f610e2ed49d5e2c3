"""What changed between two starts of a run, and what may not."""

from typing import Any

import pytest

from aggregator.settings_change import FIXED, changed, is_in_given_work, refuse_fixed
from shared.errors import ConfigError

OLD: dict[str, Any] = {
    "fleet": "fleet",
    "run": "digits",
    "seed": 1,
    "round": {"report_goal": 4, "window_s": {"min": 5, "max": 60}},
    "server": {"init_from": None},
    "training": {"algorithm": "fedavg", "learning_rate": 0.1, "alpha": 0.25},
}
OTHER: dict[str, dict[str, Any]] = {
    "fleet": {"fleet": "other"},
    "run": {"run": "other"},
    "seed": {"seed": 77},
    "server.init_from": {"server": {"init_from": "w.safetensors"}},
    "training.algorithm": {"training": {"algorithm": "fedsgd"}},
    "training.alpha": {"training": {"algorithm": "fedavg", "alpha": 0.5}},
}
"""What would change each setting that is fixed."""


def test_changes_are_named_by_their_dotted_keys() -> None:
    """In order, each as old -> new; a key that is new, or gone, too."""
    new = {**OLD, "round": {"report_goal": 5, "window_s": {"min": 5, "max": 90}}, "stop": {"rounds": 3}}
    assert changed(OLD, new, building=3) == {
        "round.report_goal": "4 -> 5 (at once)",
        "round.window_s.max": "60 -> 90 (from the next window on)",
        "stop": "None -> {'rounds': 3} (at once)",
    }
    assert changed(OLD, OLD, building=3) == {}


@pytest.mark.parametrize(
    ("key", "algorithm", "since"),
    [
        ("stop.rounds", "fedavg", "at once"),
        ("round.quorum", "fedavg", "at once"),
        ("transfer.chunk_bytes", "fedavg", "at once"),
        ("output.keep_best", "fedavg", "at once"),
        ("round.max_examples", "fedavg", "for updates that are accepted from now on"),
        ("server.max_norm", "fedavg", "for updates that are accepted from now on"),
        ("round.mode", "fedavg", "at once"),
        ("round.max_staleness", "fedavg", "at once"),
        ("round.staleness_exponent", "fedavg", "for updates that are accepted from now on"),
        ("server.normalize", "fedavg", "from version 8 on"),
        ("training.max_seconds", "fedavg", "in work that is given out from now on"),
        ("server.weighting", "fedavg", "for updates that are accepted from now on"),
        ("server.optimizer.learning_rate", "fedavg", "from version 8 on"),
        ("server.optimizer.beta_2", "fedavg", "from version 8 on"),
        ("server.optimizer.name", "fedavg", "from version 8 on, with nothing that the one before has kept"),
        ("evaluation.central_every", "fedavg", "from the next evaluation on"),
        ("training.learning_rate", "fedavg", "in work that is given out from now on"),
        ("training.codec", "fedsgd", "in work that is given out from now on"),
        ("transfer.max_update_bytes", "fedavg", "in work that is given out from now on"),
        ("training.learning_rate", "fedsgd", "from version 8 on"),
        ("training.q", "qfedavg", "from version 8 on"),
        ("training.schedule.factor", "fedsgd", "from version 8 on"),
        ("training.schedule.name", "fedavg", "in work that is given out from now on"),
        ("server.optimizer.schedule.warm_up", "fedavg", "from version 8 on"),
        ("run", "fedavg", "without effect"),
    ],
)
def test_each_change_says_from_when_on_it_holds(key: str, algorithm: str, since: str) -> None:
    """What is given out, or accepted, keeps the old value; what the server does by itself changes with it."""

    def settings(value: int) -> dict[str, Any]:
        found: dict[str, Any] = {"training": {"algorithm": algorithm}}
        *tables, name = key.split(".")
        place = found
        for table in tables:
            place = place.setdefault(table, {})
        place[name] = value
        return found

    assert changed(settings(1), settings(2), building=8) == {key: f"1 -> 2 ({since})"}


def test_what_travels_with_the_work_is_known() -> None:
    """The rate of fedsgd does not: the server steps with it, whatever a device was told."""
    assert is_in_given_work("training.epochs", "fedavg")
    assert is_in_given_work("training.learning_rate", "fedavg")
    assert is_in_given_work("transfer.max_update_bytes", "fedsgd")
    assert not is_in_given_work("training.learning_rate", "fedsgd")
    assert not is_in_given_work("transfer.chunk_bytes", "fedavg")
    assert not is_in_given_work("stop.rounds", "fedavg")


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        {**OLD, "run": None},
        {**OLD, "round": {"report_goal": 9}},
        {key: value for key, value in OLD.items() if key != "server"},
    ],
)
def test_what_has_had_its_effect_may_be_left_out(new: dict[str, Any]) -> None:
    """Only another value is refused: not a default, not an old file's silence."""
    refuse_fixed(OLD, new, where="runs/digits")


def test_name_that_was_made_up_may_be_written_down() -> None:
    """A run that was named after its task and day may get that name in its settings."""
    refuse_fixed({**OLD, "run": None}, OLD, where="runs/digits")


@pytest.mark.parametrize("key", FIXED)
def test_other_value_of_what_is_fixed_is_refused_with_both_and_the_reason(key: str) -> None:
    """The operator reads what it was, why it cannot change, and what to do."""
    with pytest.raises(ConfigError) as caught:
        refuse_fixed(OLD, {**OLD, **OTHER[key]}, where="runs/digits")
    table, _, name = key.partition(".")
    before = OLD[table][name] if name else OLD[table]
    before = "none" if before is None else before
    for words in ("runs/digits", key, f"begun with {before}", FIXED[key], "bring the old value back"):
        assert words in str(caught.value)
