from pathlib import Path

import pytest

from results import sources
from tests.results.cases.tiny import Tiny


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a file of every kind."""
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sources._engine.cache_clear()
    for name in ("shared/a.py", "results/federated.py", "results/page.py", "results/cases/tiny.py", "examples/x.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("shared/a.py", True),
        ("results/federated.py", True),
        ("results/cases/tiny.py", True),
        ("examples/x.toml", True),
        ("results/page.py", False),
        ("results/cases/another.py", False),
    ],
)
def test_digest_changes_with_what_computes_and_not_with_what_shows(
    name: str, counts: bool, clone: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page may be worded anew without a new computation."""
    monkeypatch.setattr(tiny, "sources", ("examples/x.toml",), raising=False)
    before = sources.digest_of("tiny", tiny)
    (clone / name).write_text("changed")
    sources._engine.cache_clear()
    assert (sources.digest_of("tiny", tiny) != before) == counts
    sources._engine.cache_clear()


def test_every_file_that_computes_is_there() -> None:
    """A file that is renamed would silently no longer count."""
    root = Path(sources.__file__).parent
    assert [name for name in sources.COMPUTING if not (root / name).exists()] == []
