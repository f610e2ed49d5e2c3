"""One folder of a device as its rooms use it: whole files, chunks at their offset, names that end in a suffix.

On a machine it is a folder, with fsync wherever something has to survive a power cut. The simulator keeps the files of
ten thousand devices in memory instead: what the rooms do with them is the same.

Not here: what is in the files (`outbox.py`, `local_state.py`, `model_cache.py`), the lock (`state_folder.py`).
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_client.state_folder import lock_folder, write_durably, write_whole
from shared.durable import make_folder, sync_folder

__all__ = ["Files", "OnDisk"]


class Files(Protocol):
    """A folder. Every method but `path` and `below` touches the disk, and raises OSError when the disk does."""

    @property
    def path(self) -> Path:
        """Where it lies, for people."""

    def below(self, name: str) -> "Files":
        """Return a folder within; it need not exist."""

    def lock(self) -> AbstractContextManager[None]:
        """Make the folder and hold it against every other process.

        Raises:
            AlreadyServed: another process holds it.
            ConfigError: it cannot be made or written to.
        """

    def make(self) -> None:
        """Make the folder, durably, where it does not exist."""

    def names(self, suffix: str) -> list[str]:
        """Return the names that end so, sorted; [] when there is no such folder."""

    def newest_first(self, suffix: str = "") -> list[str]:
        """Return the names that end so, of files and folders, what was used last first."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def size(self, name: str) -> int:
        """Return the bytes of a file, or of all files of a folder."""

    def open(self, name: str) -> BinaryIO:
        """Open a file to read it."""

    def read(self, name: str) -> bytes:
        """Return a whole file."""

    def array(self, name: str) -> NDArray[np.uint8]:
        """Return a whole file as an array of one's own."""

    def allocate(self, name: str, n_bytes: int) -> None:
        """Make a file of zeros, in a folder that is made where it does not exist."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file that a power cut may take, in a folder that is made where it does not exist."""

    def write_at(self, name: str, pieces: dict[int, bytes]) -> None:
        """Write pieces over a file, by their offset in bytes; it is made where it does not exist."""

    def write_whole(self, name: str, *parts: bytes) -> None:
        """Write a file: a power cut leaves the old one or the new one."""

    def write_durably(self, name: str, *parts: bytes) -> None:
        """Write a file: once this returns it survives a power cut, and until then the old one does."""

    def rename(self, name: str, new: str) -> None:
        """Give a file another name, in place of a file that has it."""

    def sync(self) -> None:
        """Make the names durable."""

    def touch(self) -> None:
        """The folder was used now."""

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing if there is none."""


class OnDisk:
    """See `Files`: a real folder.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    def below(self, name: str) -> "OnDisk":
        return OnDisk(self._path / name)

    def lock(self) -> AbstractContextManager[None]:
        return lock_folder(self._path)

    def make(self) -> None:
        make_folder(self._path)

    def names(self, suffix: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self._path) if name.endswith(suffix))
        return []

    def newest_first(self, suffix: str = "") -> list[str]:
        return sorted(self.names(suffix), key=lambda name: (self._path / name).stat().st_mtime_ns, reverse=True)

    def has(self, name: str) -> bool:
        return (self._path / name).exists()

    def size(self, name: str) -> int:
        path = self._path / name
        return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size

    def open(self, name: str) -> BinaryIO:
        return (self._path / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def array(self, name: str) -> NDArray[np.uint8]:
        return np.fromfile(self._path / name, np.uint8)

    def allocate(self, name: str, n_bytes: int) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / name).open("wb") as file:
            file.truncate(n_bytes)

    def write(self, name: str, data: bytes) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        (self._path / name).write_bytes(data)

    def write_at(self, name: str, pieces: dict[int, bytes]) -> None:
        with _opened(self._path / name) as file:  # over the old one: to truncate it first costs a flush
            for start, data in pieces.items():
                os.pwrite(file, data, start)

    def write_whole(self, name: str, *parts: bytes) -> None:
        write_whole(self._path / name, *parts)

    def write_durably(self, name: str, *parts: bytes) -> None:
        write_durably(self._path / name, *parts)

    def rename(self, name: str, new: str) -> None:
        (self._path / name).replace(self._path / new)

    def sync(self) -> None:
        sync_folder(self._path)

    def touch(self) -> None:
        os.utime(self._path)

    def delete(self, name: str) -> None:
        path = self._path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
