"""The tally outlives sittings, and says what it knows."""

from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulator.torture import Limits
from simulator.torture_checks import Verdict
from simulator.torture_tally import Tally, Violation


def _a_tally() -> Tally:
    tally = Tally(seed=3, runs=2, updates=500, accepted=400, seconds=10.0)
    tally.kills.update({"aggregator: random instant": 5, "aggregator: step": 2, "broker": 4, "devices": 30})
    tally.violations.append(Violation(run=1, what="lost", folder="/x"))
    return tally


def test_tally_is_what_was_saved(tmp_path: Path) -> None:
    """The next sitting goes on with the same sums and the same seed."""
    _a_tally().save(tmp_path / "tally.json")
    assert Tally.load(tmp_path / "tally.json", None) == _a_tally()
    assert Tally.load(tmp_path / "tally.json", 3).seed == 3


def test_new_tally_has_the_seed_that_is_asked_for(tmp_path: Path) -> None:
    """Without a file it begins at nothing."""
    assert Tally.load(tmp_path / "tally.json", None) == Tally(seed=1)
    assert Tally.load(tmp_path / "tally.json", 7) == Tally(seed=7)


@pytest.mark.parametrize("text", ["", "{}", '{"seed": 1, "unknown": 2}', '{"seed": "x"}'])
def test_file_that_is_no_tally_is_named(tmp_path: Path, text: str) -> None:
    """Nothing is written over."""
    (tmp_path / "tally.json").write_text(text)
    with pytest.raises(ConfigError, match=r"tally\.json"):
        Tally.load(tmp_path / "tally.json", None)


def test_tally_of_another_seed_is_refused(tmp_path: Path) -> None:
    """Sums of two seeds would name no run."""
    _a_tally().save(tmp_path / "tally.json")
    with pytest.raises(ConfigError, match="was begun with seed 3, not 4"):
        Tally.load(tmp_path / "tally.json", 4)


def test_lines_say_what_was_killed_and_what_was_broken() -> None:
    """A person reads sums, and where to look."""
    text = "\n".join(_a_tally().lines())
    for words in (
        "500 updates in 2 runs",
        "7 of aggregators, 4 of brokers",
        "seed 3, run 1: lost",
        "/x",
        "sqlite3 aggregator",
    ):
        assert words in text


def test_run_is_added_to_the_sums_and_a_few_of_its_violations_are_kept() -> None:
    """One cause often shows in every update after it: the tally stays readable."""
    tally, verdict = _a_tally(), Verdict(violations=[f"lost {i}" for i in range(30)], updates=7, accepted=5)
    tally.add(verdict, kills={"broker": 2}, faults={"disk full": 1}, seconds=2.5, folder=Path("/y"))
    assert (tally.runs, tally.updates, tally.accepted, tally.seconds) == (3, 507, 405, 12.5)
    assert (tally.kills["broker"], tally.faults["disk full"]) == (6, 1)
    assert [violation.run for violation in tally.violations] == [1] + 21 * [2]
    assert tally.violations[-1].what == "and 10 more like these"


def test_limits_want_updates_and_kills_together() -> None:
    """A hundred thousand updates of a machine that was hardly killed prove little."""
    tally = _a_tally()
    assert Limits(updates=500, aggregators=7, brokers=4).are_reached_by(tally)
    assert not Limits(updates=501, aggregators=7, brokers=4).are_reached_by(tally)
    assert not Limits(updates=500, aggregators=8, brokers=4).are_reached_by(tally)
    assert not Limits(updates=500, aggregators=7, brokers=5).are_reached_by(tally)
    assert not Limits(seconds=5).are_reached_by(tally)
