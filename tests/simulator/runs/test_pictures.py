from pathlib import Path

import pytest

from simulator.runs import pictures
from simulator.runs.pictures import draw_comparison, draw_report
from tests.simulator.runs.fleets import a_scenario, simulated

PNG = b"\x89PNG"


def test_run_gets_two_pictures_and_a_comparison_one(tmp_path: Path) -> None:
    """What the metric cost, how the rounds went; and the curves of several runs in one."""
    pytest.importorskip("matplotlib")
    report = simulated(a_scenario(run={"stop": {"rounds": 3}}), tmp_path)[1]
    drawn = draw_report(report)
    assert [path.name for path in drawn] == ["learning.png", "rounds.png"]
    assert all(path.read_bytes().startswith(PNG) for path in drawn)
    path = tmp_path / "both.png"
    assert draw_comparison([report.curve, report.curve], path, target=0.1)
    assert path.read_bytes().startswith(PNG)


def test_nothing_is_drawn_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is there all the same."""
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    report = simulated(a_scenario(run={"stop": {"rounds": 1}}), tmp_path)[1]
    assert draw_report(report) == []
    assert not draw_comparison([report.curve], tmp_path / "a.png", target=None)
    assert list(tmp_path.rglob("*.png")) == []
