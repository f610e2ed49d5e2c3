"""A disk that can be full: a small file system of its own where we may mount one, else a limit on the size of files.

As root, a `tmpfs` is mounted, and filling it makes every write fail with ENOSPC and shows in `statvfs`. As anybody
else, RLIMIT_FSIZE of the aggregator's process is lowered while the disk is to be full: writes beyond it fail with
EFBIG, and the disk looks empty all the time.
"""

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from shared.errors import FederationError

__all__ = ["LimitedFiles", "SmallDisk", "TmpfsDisk", "small_disk"]

DISK_BYTES = 96 * 2**20
"""Over what an aggregator wants to be free before it gives out work, and quickly filled."""
LIMIT_BYTES = 8192
"""Under any update that does not travel inline, and any journal that has begun."""
_BLOCK = bytes(2**20)


class SmallDisk(Protocol):
    """A folder on a disk that can be filled."""

    folder: Path
    name: str

    def filled(self, pid: int) -> contextlib.AbstractContextManager[None]:
        """Let the process `pid` find the disk full for as long as the context lasts."""


class TmpfsDisk:
    """A file system of its own; to be filled to the last byte.

    Args:
        folder: where it is mounted.
    """

    name = "tmpfs"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def filled(self, pid: int) -> Iterator[None]:
        """See `SmallDisk`."""
        ballast = self.folder / "ballast"
        try:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(_BLOCK)
            yield
        finally:
            ballast.unlink(missing_ok=True)


class LimitedFiles:
    """The same by a limit on the size of files of one process.

    Args:
        folder: an ordinary one.
    """

    name = "RLIMIT_FSIZE"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def filled(self, pid: int) -> Iterator[None]:
        """See `SmallDisk`."""
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@asynccontextmanager
async def small_disk(folder: Path) -> AsyncIterator[SmallDisk]:
    """Make a folder on a disk that can be full, until the context is left.

    Args:
        folder: exists; what is in it is gone afterwards where it was a file system of its own.
    """
    if os.path.ismount(folder):  # noqa: ASYNC240 - a look at one folder; of somebody who was killed
        await _run("umount", "--lazy", str(folder))
    if os.geteuid() or await _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)):
        yield LimitedFiles(folder)
        return
    try:
        yield TmpfsDisk(folder)
    finally:
        if code := await _run("umount", "--lazy", str(folder)):
            raise FederationError(f"umount {folder} ended with exit code {code}")


async def _run(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()
