import os
from pathlib import Path

import pytest

from shared.durable import make_folder, sync_folder


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of what was synchronised."""
    inodes: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        inodes.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    return inodes


def test_new_folder_is_named_durably_by_all_above_it(tmp_path: Path, synced: list[int]) -> None:
    """Every folder that got a new name in it is synchronised, down from the first that was there."""
    make_folder(tmp_path / "a" / "b" / "c")
    assert set(synced) == {path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")}


def test_folder_that_exists_is_named_durably_too(tmp_path: Path, synced: list[int]) -> None:
    """Whoever made it may have died before it was durable."""
    (tmp_path / "a").mkdir()
    make_folder(tmp_path / "a")
    assert synced == [tmp_path.stat().st_ino]


def test_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    """What cannot be made is an OSError, as everywhere."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        make_folder(tmp_path / "file" / "a")
    with pytest.raises(OSError, match="No such file"):
        sync_folder(tmp_path / "nothing")
