"""A selection rule of the user's own."""

from pathlib import Path

import pytest

from aggregator.config import SelectionSettings
from aggregator.oort import Oort
from aggregator.rule_loading import load_rule
from aggregator.selection import Candidate, Draw
from shared.errors import ConfigError

MODULE = """
class Newest:
    def draw(self, candidates, size, draw):
        return sorted((each.device for each in candidates), reverse=True)[:size]

rule = Newest()
nothing = object()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module in it, which is importable only within a test."""
    (tmp_path / "newest_rule.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    return tmp_path


@pytest.mark.parametrize("name", ["rule", "Newest"])
def test_rule_beside_the_settings_is_found(folder: Path, name: str) -> None:
    """An object, or a class that is called for one."""
    rule = load_rule(SelectionSettings(rule=f"newest_rule:{name}"), folder)
    assert rule.draw([Candidate(device="a"), Candidate(device="b")], 1, Draw(seed=1, round_id=1)) == ["b"]


def test_what_cannot_draw_is_refused(folder: Path) -> None:
    """At the start, with what is missing."""
    with pytest.raises(ConfigError, match="selection rule 'newest_rule:nothing' is of type object, without draw"):
        load_rule(SelectionSettings(rule="newest_rule:nothing"), folder)
    with pytest.raises(ConfigError, match="importing 'no_such_rule' failed"):
        load_rule(SelectionSettings(rule="no_such_rule:rule"), folder)


def test_our_own_rule_needs_no_folder() -> None:
    """It goes by its name."""
    assert isinstance(load_rule(SelectionSettings(rule="oort"), Path("nowhere")), Oort)
