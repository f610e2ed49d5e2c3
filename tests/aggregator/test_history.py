"""A line a round, readable whatever happened to the file."""

import resource
from pathlib import Path

import pytest

from aggregator.commands import EvaluationDone, RoundEnded
from aggregator.evaluation import MetricSummary
from aggregator.history import History, RunHistory, read_history
from shared.errors import ConfigError

WALL_S = 1_700_000_000.0


def a_round(round_id: int = 1, *, accepted: int = 12, expired: int = 0, outcome: str = "committed") -> RoundEnded:
    """Return a round's end; counts are those of the whole run, as the machine keeps them."""
    return RoundEnded(
        round_id=round_id,
        version=round_id,
        outcome=outcome,
        seconds=2.5,
        counts={"outstanding": 1, "accepted": accepted, "expired": expired},
        metrics={"accuracy": 0.5},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the history of a run named digits lies."""
    (tmp_path / "digits").mkdir()
    return tmp_path / "digits" / "history.jsonl"


def test_round_is_written_as_the_difference_to_the_one_before(path: Path) -> None:
    """The machine and the wire count from the start; a line says what this round brought."""
    history = History(path)
    history.round_ended(a_round(1, accepted=12, expired=2), bytes_up=100, bytes_down=10, wall_s=WALL_S)
    history.round_ended(
        a_round(2, accepted=25, expired=1), bytes_up=250, bytes_down=20, participants=["a", "b"], wall_s=WALL_S
    )
    first, second = read_history(path)
    assert (first.counts["accepted"], first.counts["expired"], first.bytes_up) == (12, 2, 100)
    assert (second.counts["accepted"], second.counts["expired"], second.bytes_up) == (13, 0, 150)
    assert second.totals["accepted"] == 25
    assert second.bytes_down == 10
    assert second.participants == ("a", "b")
    assert first.ended_at == "2023-11-14T22:13:20.000+00:00"


def test_history_goes_on_after_a_restart(path: Path) -> None:
    """Leases are counted over the run, bytes since this process began: both differences are right."""
    History(path).round_ended(a_round(1, accepted=12), bytes_up=100, wall_s=WALL_S)
    History(path).round_ended(a_round(2, accepted=22), bytes_up=40, wall_s=WALL_S)
    second = read_history(path)[1]
    assert (second.counts["accepted"], second.bytes_up) == (10, 40)


def test_torn_last_line_is_cut_off(path: Path) -> None:
    """A power failure costs one line; the next is whole again."""
    history = History(path)
    history.round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)
    with path.open("a") as file:
        file.write('{"round_id": 2, "ver')
    assert [r.round_id for r in read_history(path)] == [1]
    History(path).round_ended(a_round(3), bytes_up=0, wall_s=WALL_S)
    assert [r.round_id for r in read_history(path)] == [1, 3]


def test_round_written_twice_counts_once(path: Path) -> None:
    """A restart may repeat a round's end; the later line holds."""
    history = History(path)
    history.round_ended(a_round(1, outcome="abandoned"), bytes_up=0, wall_s=WALL_S)
    history.round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)
    assert [r.outcome for r in read_history(path)] == ["committed"]


def test_evaluation_on_devices_has_a_line_of_its_own(path: Path) -> None:
    """It ends later than its round, and names the version."""
    summary = MetricSummary(value=0.5, p10=0.1, p50=0.5, p90=0.9, n_devices=2)
    done = EvaluationDone(version=5, n_asked=3, reports=(("a", 1, ()), ("b", 1, ())))
    History(path).evaluated(done, {"accuracy": summary}, wall_s=WALL_S)
    (found,) = RunHistory.read(path).evaluations
    assert (found.version, found.n_asked, found.n_devices) == (5, 3, 2)
    assert found.metrics == {"accuracy": summary}


@pytest.mark.parametrize("line", ["", "hello", "{}", "[]", '{"kind": "round"}'])
def test_line_that_is_not_ours_is_named(path: Path, line: str) -> None:
    """The operator reads file and line."""
    History(path).round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"history\.jsonl line 2"):
        read_history(path)


def test_run_without_a_history_says_so(path: Path) -> None:
    """Asking too early is no traceback."""
    with pytest.raises(ConfigError, match="no history yet"):
        read_history(path)


def test_disk_that_takes_nothing_costs_the_line_and_not_the_run(path: Path) -> None:
    """A view for people never stops the learning."""
    history = History(path)
    path.mkdir()
    history.round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)


def test_plot_of_a_run_is_a_picture_and_of_none_is_none(path: Path) -> None:
    """The picture is drawn from what is in the file."""
    pytest.importorskip("matplotlib")
    history = History(path)
    assert not history.plot(path.with_name("history.png"))
    history.round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)
    assert history.plot(path.with_name("history.png"))
    assert RunHistory().rounds == ()


def test_disk_that_takes_half_a_line_does_not_spoil_the_next(path: Path) -> None:
    """What was cut off by a full disk is gone as a whole."""
    history = History(path)
    history.round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        history.round_ended(a_round(2), bytes_up=0, wall_s=WALL_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    history.round_ended(a_round(3), bytes_up=0, wall_s=WALL_S)
    assert [each.round_id for each in read_history(path)] == [1, 3]


def test_damaged_history_does_not_keep_a_run_from_going_on(path: Path) -> None:
    """It is a view: the journal decides."""
    path.write_text("not ours\n")
    History(path).round_ended(a_round(1), bytes_up=0, wall_s=WALL_S)
    assert path.read_text().count("\n") == 2
