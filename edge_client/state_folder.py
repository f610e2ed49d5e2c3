"""The folder of one device: locked against a second process, written so that a power cut leaves old or new.

A damaged file is never deleted and never used: it is set aside, and named with the command that ends the matter.

Not here: what is in it (`outbox.py`, `local_state.py`, `model_cache.py`).
"""

import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from shared.durable import make_folder, sync_folder
from shared.errors import AlreadyServed, ConfigError

__all__ = [
    "DAMAGED",
    "TEMPORARY",
    "damaged_name",
    "lock_folder",
    "remedy",
    "sync_folder",
    "write_durably",
    "write_whole",
]

LOCK_NAME = "lock"
TEMPORARY = ".part"
"""Suffix of a file that is being written."""
DAMAGED = ".damaged"
"""Suffix of a file that is set aside."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for as long as the context lasts; it is made where it does not exist.

    Raises:
        AlreadyServed: another process holds it; names its pid.
        ConfigError: it cannot be made or written to.
    """
    try:
        make_folder(folder)
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot be written to: {error.strerror}", where=str(folder), hint="choose another with --folder"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise AlreadyServed(
                f"is in use by process {pid}",
                where=str(folder),
                hint="one process a device: end that one, or choose another --id or --folder",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file as a whole: a power cut leaves the old one or the new one, never a part.

    Raises:
        OSError: the disk is full, or broken.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_durably(path: Path, *parts: bytes) -> None:
    """Write a file as a whole: once this returns it survives a power cut, and until then the old one does.

    Raises:
        OSError: the disk is full, or broken.
    """
    write_whole(path, *parts)
    sync_folder(path.parent)


def damaged_name(name: str) -> str:
    """Return what a damaged file is called once it is out of use."""
    return PurePath(name).with_suffix(DAMAGED).name


def remedy(device_folder: Path, name: str) -> str:
    """Return what a person can do about a file that was set aside, by the name it has in the list."""
    command = f"python -m edge_client outbox discard {name} --folder {shlex.quote(str(device_folder))}"
    return f"{command} (the device stopped); retry in place of discard once the file is repaired"
