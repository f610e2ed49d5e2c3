import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from results import __main__ as command
from tests.results.cases.tiny import Tiny


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything is written."""
    monkeypatch.setattr(command, "WORK", tmp_path / "work")
    monkeypatch.setattr(command, "digest_of", lambda name, case: "a")
    return tmp_path


def called(place: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of the command, computing in this process."""
    result = CliRunner().invoke(command.app, ["--jobs", "0", "--folder", str(place), *options])
    return result.exit_code, result.output


def test_case_is_computed_written_and_drawn(tiny: Tiny, place: Path) -> None:
    """Five seeds and five folds, a page, a picture, the numbers."""
    code, said = called(place, "tiny")
    assert (code, len(tiny.computed)) == (0, 25)
    assert "## Twice" in (place / "results.md").read_text()
    assert (place / "results" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((place / "results" / "tiny.json").read_text())["runs"]) == 25
    assert said.splitlines()[-1].endswith("results.md: 1 cases")


def test_rendering_computes_nothing_and_gives_the_same_page(tiny: Tiny, place: Path) -> None:
    """Everything comes from the numbers beside it."""
    called(place, "tiny", "--quick")
    text, picture = (place / "results.md").read_text(), (place / "results" / "tiny.png").read_bytes()
    tiny.computed.clear()
    assert called(place, "tiny", "--render")[0] == 0
    assert tiny.computed == []
    assert (place / "results.md").read_text() == text
    assert (place / "results" / "tiny.png").read_bytes() == picture


def test_quick_is_one_seed_and_one_fold(tiny: Tiny, place: Path) -> None:
    """And what it found can be printed for a program."""
    code, said = called(place, "tiny", "--quick", "--json")
    assert (code, len(tiny.computed)) == (0, 1)
    assert json.loads(said[said.index("{") :])["tiny"][0] == {"target": "above 0", "found": "2", "outcome": "met"}


def test_rendering_without_numbers_says_what_computes_them(tiny: Tiny, place: Path) -> None:
    """It is the operator's to compute them first."""
    code, said = called(place, "tiny", "--render")
    assert code == 2
    assert "python -m results tiny computes them" in said


def test_failed_run_leaves_no_page(tiny: Tiny, place: Path) -> None:
    """Half of the numbers would be a wrong page."""
    tiny.broken = True
    code, said = called(place, "tiny")
    assert (code, (place / "results.md").exists()) == (1, False)
    assert "it is broken" in said


def test_unknown_case_is_refused(place: Path) -> None:
    """With the names that there are."""
    code, said = called(place, "nothing")
    assert code == 2
    assert "rounds" in said
