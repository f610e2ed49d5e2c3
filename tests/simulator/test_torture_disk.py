"""A disk that is full refuses to take more, and takes it again when there is room."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from simulator.torture_disk import LIMIT_BYTES, LimitedFiles, TmpfsDisk, small_disk


def _write(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(bytes(LIMIT_BYTES))
        file.write(bytes(LIMIT_BYTES))


def test_limited_file_cannot_grow_while_the_disk_is_full(tmp_path: Path) -> None:
    """Without the right to mount, one process finds its files limited; afterwards it does not."""
    disk = LimitedFiles(tmp_path)
    with disk.filled(os.getpid()), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        _write(tmp_path / "file")
    _write(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size == 2 * LIMIT_BYTES


async def test_own_file_system_is_filled_to_the_last_byte(tmp_path: Path) -> None:
    """Where we may mount: writes fail with ENOSPC, the free space is 0, and all is as before afterwards."""
    async with small_disk(tmp_path) as disk:
        if not isinstance(disk, TmpfsDisk):
            pytest.skip("no file system may be mounted here: the torture limits the size of files instead")
        with disk.filled(os.getpid()):
            assert shutil.disk_usage(tmp_path).free == 0
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                _write(tmp_path / "file")
        _write(tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert not _is_mounted(tmp_path)


@pytest.fixture
def left_mounted(tmp_path: Path) -> Path:
    """A folder with a file system that somebody has left there."""
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    return tmp_path


async def test_what_somebody_left_mounted_is_unmounted_first(left_mounted: Path) -> None:
    """A torture that was itself killed does not pile file systems up."""
    async with small_disk(left_mounted):
        assert _is_mounted(left_mounted)
    assert not _is_mounted(left_mounted)


def _is_mounted(folder: Path) -> bool:
    return os.path.ismount(folder)
