"""A picture is drawn of every history there can be, and a run without matplotlib only lacks it."""

import sys
from pathlib import Path

import pytest

from aggregator.evaluation import MetricSummary
from aggregator.history import COUNTS, EvaluationSummary, RoundSummary, RunHistory
from aggregator.plot import MAX_BARS, save_plot

PNG = b"\x89PNG\r\n"


def a_history(n_rounds: int, *, metrics: bool = True, outcome: str = "committed") -> RunHistory:
    """Return rounds with one report of each kind."""
    rounds = tuple(
        RoundSummary(
            round_id=i,
            version=i,
            outcome=outcome,
            seconds=1.0,
            ended_at="",
            counts=dict.fromkeys(COUNTS, 1),
            metrics={"accuracy": i / n_rounds} if metrics else {},
            bytes_up=10**i if i < 11 else 0,
        )
        for i in range(1, n_rounds + 1)
    )
    summary = MetricSummary(value=0.5, p10=0.1, p50=0.5, p90=0.9, n_devices=2)
    evaluation = EvaluationSummary(
        version=1,
        n_asked=2,
        n_devices=2,
        ended_at="",
        metrics=dict.fromkeys(("accuracy", "personal_accuracy"), summary),
    )
    return RunHistory(rounds=rounds, evaluations=(evaluation,) if metrics else ())


@pytest.mark.parametrize(
    "history",
    [
        a_history(1),
        a_history(3, metrics=False),
        a_history(3, outcome="abandoned"),
        a_history(MAX_BARS + 1),
        RunHistory(rounds=(RoundSummary(round_id=7, version=0, outcome="abandoned", seconds=1.0, ended_at=""),)),
    ],
    ids=["one round", "never evaluated", "all abandoned", "long", "nobody reported"],
)
def test_every_history_has_a_picture(history: RunHistory, tmp_path: Path) -> None:
    """No warning, no error, a PNG; the folder is made."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "pictures" / "history.png"
    assert save_plot(history, path, metric="accuracy", title="digits")
    assert path.read_bytes().startswith(PNG)


def test_metric_that_nobody_reported_gives_way_to_one_that_was(tmp_path: Path) -> None:
    """A run that stops at a loss still shows its accuracy when that is all there is."""
    pytest.importorskip("matplotlib")
    assert save_plot(a_history(2), tmp_path / "history.png", metric="loss", title="digits")


def test_history_without_rounds_has_no_picture(tmp_path: Path) -> None:
    """Nothing is written, and the log says why."""
    assert not save_plot(RunHistory(), tmp_path / "history.png", metric="accuracy", title="digits")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_there_is_a_note_and_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's install has no plotting; the run ends well all the same."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not save_plot(a_history(2), tmp_path / "history.png", metric="accuracy", title="digits")
