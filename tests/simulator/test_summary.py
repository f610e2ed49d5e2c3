import json
from pathlib import Path

from simulator.summary import Killed, Summary, summarize

A_ROUND = {
    "kind": "round",
    "round_id": 1,
    "version": 1,
    "outcome": "committed",
    "seconds": 2.5,
    "ended_at": "2026-01-01T00:00:00+00:00",
    "metrics": {"accuracy": 0.5},
}


def _summarized(folder: Path, *rounds: dict[str, object]) -> Summary:
    if rounds:
        (folder / "history.jsonl").write_text("".join(json.dumps({**A_ROUND, **each}) + "\n" for each in rounds))
    return summarize(
        folder,
        metric="accuracy",
        counts={"accepted": 12, "discarded": 1, "expired": 2, "cancelled": 0},
        seconds=61.4,
        bytes_up=1_234_567,
        bytes_down=999,
        killed=[Killed(device="doomed-1", chunks=1, n_chunks=5, round_id=3)],
    )


def test_summary_counts_rounds_and_takes_the_last_metric(tmp_path: Path) -> None:
    """Committed and abandoned rounds are told apart; the metric is that of the last round that has it."""
    abandoned = {"round_id": 3, "outcome": "abandoned", "metrics": {}}
    summary = _summarized(tmp_path, {}, {"round_id": 2, "metrics": {"accuracy": 0.75}}, abandoned)
    assert (summary.n_committed, summary.n_abandoned, summary.value) == (2, 1, 0.75)


def test_summary_of_a_run_without_a_round_is_still_one(tmp_path: Path) -> None:
    """A run that ended before its first round did has a summary that says so."""
    summary = _summarized(tmp_path)
    assert (summary.n_committed, summary.value, summary.model, summary.plot) == (0, None, None, None)
    assert any("none was written" in line for line in summary.lines())


def test_lines_say_what_a_person_asks(tmp_path: Path) -> None:
    """Metric, rounds, reports by outcome, bytes, who was killed, and where the results lie."""
    (tmp_path / "final.safetensors").touch()
    text = "\n".join(_summarized(tmp_path, {}).lines())
    for part in (
        "accuracy 0.5000 after 1 rounds, in 61 s",
        "12 accepted, 1 discarded, 0 rejected, 0 failed, 2 expired",
        "1.2 MB up, 999 B down",
        "doomed-1 in round 3, with 1 of 5 chunks sent",
        str(tmp_path / "final.safetensors"),
    ):
        assert part in text


def test_json_holds_the_same(tmp_path: Path) -> None:
    """A program reads what a person reads."""
    found = json.loads(_summarized(tmp_path, {}).as_json())
    assert (found["value"], found["n_committed"], found["bytes_up"]) == (0.5, 1, 1_234_567)
    assert found["killed"] == [{"device": "doomed-1", "chunks": 1, "n_chunks": 5, "round_id": 3}]
