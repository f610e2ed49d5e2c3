"""One aggregator a folder, and everybody else is told which."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.run_folder import RunFolder, anew_hint, read_lock
from shared.errors import AlreadyServed, ConfigError

ROOT = Path(__file__).parents[2]


def test_folder_is_made_with_its_rooms(tmp_path: Path) -> None:
    """However deep it lies; its lock names this process."""
    with RunFolder(tmp_path / "runs" / "digits") as folder:
        assert folder.versions.is_dir()
        assert folder.updates.is_dir()
        assert read_lock(folder.path) == {"pid": os.getpid(), "host": socket.gethostname()}
        folder.describe(socket="/somewhere")
        assert read_lock(folder.path)["socket"] == "/somewhere"


def test_folder_that_was_let_go_is_nobodys(tmp_path: Path) -> None:
    """And can be taken again."""
    for _ in range(2):
        with RunFolder(tmp_path / "run") as folder:
            path = folder.path
        assert read_lock(path) == {}
    assert read_lock(tmp_path / "nowhere") == {}


def test_second_aggregator_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    """By its pid; the first one's lock stands as it was."""
    with RunFolder(tmp_path / "run") as first:
        with pytest.raises(AlreadyServed, match=f"pid {os.getpid()} on {socket.gethostname()}") as caught:
            RunFolder(tmp_path / "run")
        assert caught.value.exit_code == 4
        assert str(tmp_path / "run") in str(caught.value)
        assert read_lock(first.path)["pid"] == os.getpid()


def test_lock_of_a_killed_aggregator_is_free(tmp_path: Path) -> None:
    """The kernel lets go of it; what the file says then is old."""
    program = f"""
import os
from pathlib import Path
from aggregator.run_folder import RunFolder
folder = RunFolder(Path({str(tmp_path / "run")!r}))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert "pid" in read_lock(tmp_path / "run")
    with RunFolder(tmp_path / "run") as folder:
        assert read_lock(folder.path)["pid"] == os.getpid()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"output\.folder") as caught:
        RunFolder(tmp_path / "file" / "run")
    assert str(tmp_path / "file" / "run") in str(caught.value)


def test_lock_that_is_no_json_says_nothing(tmp_path: Path) -> None:
    """Torn or of another program: nobody is named."""
    for text in ("garbage", "[1]", ""):
        (tmp_path / "lock").write_text(text)
        assert read_lock(tmp_path) == {}


def test_run_that_cannot_go_on_has_a_way_on_with_all_its_arguments(tmp_path: Path) -> None:
    """The newest whole version; else the best model, else the last one; else only a copy helps."""
    folder = tmp_path / "digits"
    folder.mkdir()
    assert "no model of it is left" in anew_hint(folder, ())
    for name in ("final", "best"):
        path = folder / f"{name}.safetensors"
        path.write_bytes(b"")
        assert f'server.init_from = "{path}"' in anew_hint(folder, ())
    hint = anew_hint(folder, (3, 7))
    assert "python -m aggregator export RUN.toml --version 7 --out digits-7.safetensors" in hint
    assert 'server.init_from = "digits-7.safetensors"' in hint
