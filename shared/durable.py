"""Names that survive a power cut: a file is not durable before the folder that names it is.

Not here: what is in a file; whoever writes it synchronises it.
"""

import contextlib
import os
from pathlib import Path

__all__ = ["make_folder", "sync_folder"]


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed and deleted in a folder durable.

    Raises:
        OSError: the disk is broken.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; all of them are durable then.

    Raises:
        OSError: it cannot be made.
    """
    missing = [above for above in folder.parents if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # its own name always: an earlier life may have made it and died before this
    for made in (folder, *missing):
        with contextlib.suppress(PermissionError):  # one may be allowed to write where one may not read
            sync_folder(made.parent)
