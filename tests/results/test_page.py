import math
from pathlib import Path

import pytest

from results.case import Found, Scale, cases
from results.computing import Cache, compute_all
from results.intervals import Interval
from results.page import page, read_found, said, write_found
from results.sources import ROOT
from shared.errors import ConfigError
from tests.results.cases.tiny import Tiny


def found_of(tiny: Tiny, folder: Path) -> Found:
    """What the tiny case finds with two seeds and two folds."""
    runs = tiny.runs(Scale(seeds=[1, 2], folds=[0, 1]))
    return Found(runs=runs, numbers=compute_all(runs, {"tiny": "a"}, Cache(folder), jobs=0))


def test_page_in_the_docs_is_what_its_numbers_say() -> None:
    """`python -m results --render` writes it anew; every number of it comes from docs/results."""
    folder = ROOT / "docs" / "results"
    found = {
        name: (case, read_found(path)) for name, case in cases().items() if (path := folder / f"{name}.json").exists()
    }
    assert (ROOT / "docs" / "results.md").read_text() == page(found)
    assert {path.stem for path in folder.glob("*.json")} == {path.stem for path in folder.glob("*.png")} == found.keys()


def test_page_has_every_target_and_every_section(tiny: Tiny, tmp_path: Path) -> None:
    """A miss stands at the top like what was met."""
    text = page({"tiny": (tiny, found_of(tiny, tmp_path))})
    assert "| [Twice](#twice) | above 0 | 14 | met |" in text
    assert "| [Twice](#twice) | above 1000 | 14 | **missed** |" in text
    assert "| [Twice](#twice) | reported | 14 | reported |" in text
    assert "## Twice\n\nIt is twice.\n\n![two points](results/tiny.png)\n\n| what | value |\n| --- | --- |" in text


def test_numbers_survive_their_file(tiny: Tiny, tmp_path: Path) -> None:
    """What is read is what was written, runs in their order."""
    found = found_of(tiny, tmp_path)
    write_found(tmp_path / "docs" / "tiny.json", found, "a" * 16)
    assert read_found(tmp_path / "docs" / "tiny.json") == found


@pytest.mark.parametrize("text", ["", "{}", '{"runs": [{"arm": "a"}]}', '{"runs": [{"arm": "a", "seed": 1, "x": 2}]}'])
def test_file_that_has_no_numbers_is_refused(text: str, tmp_path: Path) -> None:
    """It is said what computes them."""
    path = tmp_path / "tiny.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="python -m results tiny computes them"):
        read_found(path)


def test_interval_is_said_with_its_ends_or_not_at_all() -> None:
    """One run has none."""
    known = Interval(mean=1.234, low=-0.5, high=2.0, n=5)
    assert said(known) == "+1.23 [-0.50, +2.00]"
    assert said(known, ".1f") == "1.2 [-0.5, 2.0]"
    assert said(Interval(mean=1, low=-math.inf, high=math.inf, n=1)) == "+1.00 [one run]"
