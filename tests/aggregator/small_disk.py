"""A disk of a few megabytes that a test may fill to the last byte: a tmpfs, which only root may mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["SmallDisk", "small_disk"]


class SmallDisk:
    """Mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, leaving: int = 0) -> None:
        """Take all of the free space but so many bytes."""
        disk = os.statvfs(self.path)
        wanted = disk.f_bavail * disk.f_frsize - leaving
        with self._filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), wanted)

    def empty(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of that size, or skip the test, saying why."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs, to have a disk that is really full")
    path = folder / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
