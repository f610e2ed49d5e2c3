import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_client.state_folder import lock_folder, write_durably
from shared.errors import AlreadyServed, ConfigError

ROOT = Path(__file__).parents[2]


def test_second_holder_is_refused_and_told_the_first_ones_pid(tmp_path: Path) -> None:
    """Two processes on one device would both send its updates."""
    refused = pytest.raises(AlreadyServed, match=f"process {os.getpid()}")
    with lock_folder(tmp_path), refused as error, lock_folder(tmp_path):
        raise AssertionError
    assert error.value.exit_code == 4


def test_lock_is_free_after_a_kill(tmp_path: Path) -> None:
    """The lock goes with the process, however it ends."""
    code = (
        "import os, pathlib\nfrom edge_client.state_folder import lock_folder\n"
        f"lock_folder(pathlib.Path({str(tmp_path)!r})).__enter__()\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == -9
    with lock_folder(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_folder_that_cannot_be_made_is_a_setting_to_correct(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), lock_folder(tmp_path / "file" / "x"):
        raise AssertionError


def test_write_replaces_the_whole_file(tmp_path: Path) -> None:
    """Old or new, and nothing beside it."""
    write_durably(tmp_path / "a", b"old")
    write_durably(tmp_path / "a", b"n", b"ew")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A disk that breaks in the middle costs nothing that was there."""
    write_durably(tmp_path / "a", b"old")
    (tmp_path / "a.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
