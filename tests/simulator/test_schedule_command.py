"""`python -m simulator schedules`: what it prints, and how it exits."""

import json
from collections.abc import Iterable, Iterator

import pytest
from typer.testing import CliRunner

from shared.errors import ConfigError
from simulator.__main__ import app
from simulator.schedule_command import Tally, seeds_of
from simulator.schedule_run import Verdict

pytestmark = pytest.mark.timeout(120)

runner = CliRunner()


@pytest.mark.parametrize(("text", "seeds"), [("0:3", [0, 1, 2]), ("7:8", [7]), ("2", [0, 1])])
def test_seeds_are_a_range(text: str, seeds: list[int]) -> None:
    """The end is not among them; a number alone is so many from 0."""
    assert list(seeds_of(text)) == seeds


@pytest.mark.parametrize("text", ["", "a:b", "3:3", "5:2", "-1:4", "1:2:3"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    """It says what would be right, and ends with 2."""
    with pytest.raises(ConfigError, match="names no seeds"):
        seeds_of(text)
    ran = runner.invoke(app, ["schedules", f"--seeds={text}"])
    assert ran.exit_code == 2
    assert "--seeds 0:1000" in ran.output


def test_schedules_that_hold_end_with_zero() -> None:
    """One line says how many, and how much happened in them."""
    ran = runner.invoke(app, ["schedules", "--seeds", "0:2", "--jobs", "1"])
    assert ran.exit_code == 0, ran.output
    assert "2 schedules" in ran.stdout
    assert "0 failed" in ran.stdout


def test_replay_of_one_tells_what_happens() -> None:
    """The fleet, the misbehaviours, each death as it comes, what devices are told, and each version."""
    ran = runner.invoke(app, ["schedules", "--seed", "3"])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith("seed 3: ")
    assert "the broker: " in ran.stdout
    assert " s  " in ran.stdout
    assert "commits are those of the aggregator's journal" in ran.stdout
    assert "is told that lease" in ran.stdout
    assert "version 5 is committed and published" in ran.stdout
    assert "no violations" in ran.stdout


@pytest.fixture
def one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all schedules the fourth does not hold."""

    def verdicts(seeds: Iterable[int], *, jobs: int) -> Iterator[Verdict]:
        for seed in seeds:
            violations = ("a lease was accepted twice",) if seed == 3 else ()
            yield Verdict(seed=seed, violations=violations, n_crashes=2, n_accepted=10, virtual_s=60.0)

    monkeypatch.setattr("simulator.schedule_command.verdicts", verdicts)


@pytest.mark.usefixtures("one_fails")
def test_failing_schedule_is_told_with_the_command_that_replays_it() -> None:
    """Seed, misbehaviours, crashes, what was violated; the exit code is 1."""
    ran = runner.invoke(app, ["schedules", "--seeds", "0:5"])
    assert ran.exit_code == 1
    assert "FAILED: seed 3: " in ran.stdout
    assert "the broker: " in ran.stdout
    assert "VIOLATION: a lease was accepted twice" in ran.stdout
    assert "replay: python -m simulator schedules --seed 3" in ran.stdout
    assert "5 schedules, 10 crashes, 50 updates counted" in ran.stdout


@pytest.mark.usefixtures("one_fails")
def test_json_is_all_that_is_printed() -> None:
    """For scripts: the sums, and what failed by seed."""
    ran = runner.invoke(app, ["schedules", "--seeds", "0:5", "--json"])
    assert ran.exit_code == 1
    said = json.loads(ran.stdout)
    assert said["n_seeds"] == 5
    assert said["failed"] == {"3": ["a lease was accepted twice"]}


@pytest.mark.parametrize("options", [["--seeds", "0:2"], ["--seed", "3", "--json"]])
def test_messages_are_told_of_one_schedule_alone(options: list[str]) -> None:
    """An option that would do nothing is refused, with one that does."""
    ran = runner.invoke(app, ["schedules", "--verbose", *options])
    assert ran.exit_code == 2
    assert "--seed 7 --verbose" in ran.output


def test_tally_counts_in_units_that_say_something() -> None:
    """One is one, and what is less than an hour is told in seconds."""
    tally = Tally(seconds=0.4)
    tally.add(Verdict(seed=1, violations=(), n_crashes=2, n_accepted=10, virtual_s=61.0))
    assert tally.line().startswith("1 schedule, 2 crashes, 10 updates counted, 61 virtual seconds in 0.4 s")
    tally.add(Verdict(seed=2, violations=(), n_crashes=2, n_accepted=10, virtual_s=7139.0))
    assert "2 schedules" in tally.line()
    assert "2.0 virtual hours" in tally.line()
