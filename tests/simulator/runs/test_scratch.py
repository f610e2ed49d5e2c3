from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulator.runs.scratch import scratch
from tests.integration.linear import some_settings


def _interrupted(folder: Path, memory: Path) -> Path:
    with scratch(some_settings(folder), memory=memory) as (inside, final):
        run = inside.output.folder / final.name
        assert memory in run.parents
        run.mkdir()
        (run / "history.jsonl").write_text(str(final))
        raise ZeroDivisionError


def test_run_lies_in_its_own_folder_at_the_end_even_after_an_error(tmp_path: Path) -> None:
    """Meanwhile it lies elsewhere, and nothing of that is left."""
    memory = tmp_path / "memory"
    memory.mkdir()
    with pytest.raises(ZeroDivisionError):
        _interrupted(tmp_path, memory)
    (line,) = tmp_path.rglob("history.jsonl")
    assert line.read_text() == str(line.parent)
    assert list(memory.iterdir()) == []


def test_run_that_exists_is_not_written_over(tmp_path: Path) -> None:
    """A simulation begins anew; what is there belongs to another."""
    settings = some_settings(tmp_path)
    with scratch(settings) as (inside, final):
        (inside.output.folder / final.name).mkdir()
    with pytest.raises(ConfigError, match="a run of that name"), scratch(settings):
        pass
