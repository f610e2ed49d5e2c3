from pathlib import Path

import pytest

from bench.flower.environment import REQUIREMENTS, flower_python, pinned_version
from shared.errors import ConfigError


async def test_environment_that_was_made_from_these_requirements_is_used_as_it_is(tmp_path: Path) -> None:
    """Nothing is installed twice."""
    said: list[str] = []
    (tmp_path / "made-from.txt").write_bytes(REQUIREMENTS.read_bytes())
    assert await flower_python(tmp_path, said.append) == tmp_path / "bin" / "python"
    assert said == []


async def test_environment_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    """The command that failed and its last words; nothing half-made is taken for whole afterwards."""
    (blocked := tmp_path / "file").touch()
    folder = blocked / "venv"
    with pytest.raises(ConfigError, match="venv"):
        await flower_python(folder, lambda line: None)
    assert not folder.exists()


def test_pinned_version_is_that_of_the_requirements() -> None:
    """What the report names is what was installed."""
    assert f"flwr=={pinned_version()}" in REQUIREMENTS.read_text().splitlines()
