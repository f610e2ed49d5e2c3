"""What a run's folder is refused for before anything is created in it, and what `check` says of damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.lost_journal import refuse_damaged, refuse_lost_journal
from aggregator.run_folder import RunFolder
from shared.errors import ConfigError
from tests.aggregator.killed_run import RUN, KilledRun, a_killed_run, go_on


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run of two lives, killed with three updates accepted that lie in files."""
    return a_killed_run(tmp_path_factory.mktemp("killed"))


def names(folder: Path) -> list[str]:
    """Return what lies in a folder, but for what SQLite makes to read at all."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal")))


def lose_journal(folder: Path) -> None:
    """Delete the journal and all that belongs to it."""
    for path in folder.glob("journal.*"):
        path.unlink()


def test_start_that_refuses_a_lost_journal_makes_none(tmp_path: Path, killed: KilledRun) -> None:
    """Whoever brings the old one back finds no foreign head file beside it."""
    settings = killed.copy(tmp_path)
    lose_journal(tmp_path / RUN)
    with pytest.raises(ConfigError, match=r"no journal(.|\n)*nothing was changed(.|\n)*--version 4 --out"):
        go_on(settings, tmp_path)
    assert list((tmp_path / RUN).glob("journal.*")) == []


def test_folder_in_which_no_run_has_been_is_let_pass(tmp_path: Path) -> None:
    """Not there, empty, or with the first model alone; nothing is created."""
    refuse_lost_journal(tmp_path / "nowhere")
    refuse_damaged(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    RunFolder(tmp_path / "run").close()
    refuse_lost_journal(tmp_path / "run")
    refuse_damaged(tmp_path / "run")
    assert list((tmp_path / "run").glob("journal.*")) == []


def _cut_rows(folder: Path) -> None:
    (folder / "journal.sqlite-wal").unlink()


def _lose_version(folder: Path) -> None:
    (folder / "versions" / "00000004.safetensors").unlink()


def _lose_database(folder: Path) -> None:
    (folder / "journal.sqlite").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose_journal, "there is no journal"),
        (_cut_rows, "are missing"),
        (_lose_version, "no such version"),
        (_lose_database, "gone or empty"),
    ],
)
def test_damage_is_said_before_a_start(
    tmp_path: Path, killed: KilledRun, damage: Callable[[Path], None], says: str
) -> None:
    """A whole run passes; one that a start would refuse does not, and nothing is changed."""
    killed.copy(tmp_path)
    refuse_damaged(tmp_path / RUN)
    damage(tmp_path / RUN)
    before = names(tmp_path / RUN)
    with pytest.raises(ConfigError, match=says):
        refuse_damaged(tmp_path / RUN)
    assert names(tmp_path / RUN) == before
