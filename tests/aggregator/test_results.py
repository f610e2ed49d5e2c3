"""What a run leaves for people."""

from pathlib import Path

import numpy as np
import pytest
import structlog
from safetensors.numpy import load_file

from aggregator.commands import EvaluationDone, RoundEnded, WindowExtended
from aggregator.history import RunHistory
from aggregator.model_store import ServerState
from aggregator.opening import OpenRun
from aggregator.results import Results
from shared.messages import RoundOutcome
from tests.aggregator.builders import some_settings
from tests.aggregator.test_opening import opened


def a_version(run: OpenRun, version: int) -> ServerState:
    """Return a version whose parameters are its number, and save it."""
    old = run.aggregation.state
    parameters = np.full(8, version, np.float32)
    state = ServerState(version=version, round_id=version, spec=old.spec, parameters=parameters)
    run.store.save(state)
    return state


async def test_best_version_is_kept_beside_the_last(tmp_path: Path) -> None:
    """Version 1 was the best, version 2 is the last."""
    async with opened(some_settings(tmp_path)) as run:
        results = Results(run, wall=lambda: 5.0)
        for version in (1, 2):
            results.committed(a_version(run, version), {version}, is_best=version == 1)
        results.finish(2)
        result = results.result("rounds", counts={"accepted": 8}, refused={}, bytes_up=10, bytes_down=20)
        assert result.best is not None
        assert load_file(result.best)["weights"][0] == 1.0
        assert load_file(result.model)["weights"][0] == 2.0
    assert (result.cause, result.counts, result.bytes_up, result.bytes_down) == ("rounds", {"accepted": 8}, 10, 20)


async def test_best_version_is_not_kept_when_nobody_wants_it(tmp_path: Path) -> None:
    """`output.keep_best = false`."""
    async with opened(some_settings(tmp_path, output={"folder": tmp_path, "keep_best": False})) as run:
        results = Results(run, wall=lambda: 5.0)
        results.committed(a_version(run, 1), {1}, is_best=True)
        assert results.result("rounds", counts={}, refused={}, bytes_up=0, bytes_down=0).best is None


@pytest.mark.parametrize("wanted", [True, False])
async def test_picture_is_drawn_unless_nobody_wants_it(tmp_path: Path, wanted: bool) -> None:
    """`output.plot = false`: a run of a simulation spends no time on it, and says nothing of it."""
    pytest.importorskip("matplotlib")
    async with opened(some_settings(tmp_path, output={"folder": tmp_path, "plot": wanted})) as run:
        results = Results(run, wall=lambda: 5.0)
        results.committed(a_version(run, 1), {1}, is_best=False)
        ended = RoundEnded(round_id=1, version=1, outcome=RoundOutcome.COMMITTED, seconds=1.0, counts={}, metrics={})
        results.round_ended(ended, participants=(), bytes_up=0, bytes_down=0)
        results.finish(1)
        assert run.folder.plot.exists() is wanted


async def test_old_versions_are_deleted_newer_ones_never(tmp_path: Path) -> None:
    """What is kept stays; a version that was written meanwhile is not deleted by the one before."""
    async with opened(some_settings(tmp_path)) as run:
        for version in range(1, 6):
            a_version(run, version)
        Results(run, wall=lambda: 5.0).committed(run.store.load(4), {2, 4}, is_best=False)
        assert run.store.versions() == [2, 4, 5]


async def test_rounds_and_evaluations_have_one_record_each(tmp_path: Path) -> None:
    """With who took part, what it cost, and when; the metrics of devices come back combined."""
    async with opened(some_settings(tmp_path)) as run:
        results = Results(run, wall=lambda: 5.0)
        ended = RoundEnded(
            round_id=1, version=1, outcome=RoundOutcome.COMMITTED, seconds=3.25, counts={"accepted": 4}, metrics={}
        )
        results.round_ended(ended, participants=("a", "b"), bytes_up=10, bytes_down=20)
        reports = (("a", 10, (("accuracy", (9.0, 10.0)),)), ("b", 30, (("accuracy", (15.0, 30.0)),)))
        with structlog.testing.capture_logs() as logs:
            metrics = results.evaluated(EvaluationDone(version=1, n_asked=3, reports=reports))
        history = RunHistory.read(run.folder.history)
    assert logs[-1]["accuracy"] == "0.6, median 0.7, 10th percentile 0.54"  # of 0.9 and 0.5
    assert metrics["accuracy"] == pytest.approx(24 / 40)
    (record,) = history.rounds
    assert (record.round_id, record.outcome, record.seconds) == (1, "committed", 3.25)
    assert list(record.participants) == ["a", "b"]
    (evaluation,) = history.evaluations
    assert (evaluation.version, evaluation.n_asked, evaluation.n_devices) == (1, 3, 2)


async def test_round_that_a_restart_ends_again_keeps_its_record(tmp_path: Path) -> None:
    """Nobody knows any more whether it was written: the first holds, with who took part and how long it took."""
    ended = RoundEnded(
        round_id=1, version=1, outcome=RoundOutcome.COMMITTED, seconds=3.25, counts={"accepted": 4}, metrics={}
    )
    async with opened(some_settings(tmp_path)) as run:
        Results(run, wall=lambda: 5.0).round_ended(ended, participants=("a", "b"), bytes_up=10, bytes_down=20)
        Results(run, wall=lambda: 9.0).round_ended(ended, participants=(), bytes_up=0, bytes_down=0)
        (record,) = RunHistory.read(run.folder.history).rounds
        assert len(run.folder.history.read_text().splitlines()) == 1
    assert list(record.participants) == ["a", "b"]


async def test_operator_is_told_that_a_window_was_extended(tmp_path: Path) -> None:
    """Why, what is there and what is missing, and until when."""
    extended = WindowExtended(round_id=3, have=2, need=3, n_outstanding=1, seconds_left=90.0, times=1, at_most=2)
    async with opened(some_settings(tmp_path)) as run:
        with structlog.testing.capture_logs() as lines:
            Results(run, wall=lambda: 3600.0).window_extended(extended)
    (line,) = lines
    assert (line["event"], line["cause"], line["have"], line["need"]) == ("window_extended", "quorum_missed", 2, 3)
    assert (line["until"], line["extension"], line["outstanding"]) == ("01:01:30 UTC", "1 of 2", 1)
