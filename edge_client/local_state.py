"""What a client algorithm keeps between rounds, keyed by lease until its update is accepted.

A device whose update was refused must go on from the state before it, or its error feedback and control variates drift
away from the server's. So new state waits beside the outbox entry, becomes current when the lease is accepted, and is
deleted otherwise.

Not here: the update itself (`outbox.py`), the command for people (`outbox_command.py`).
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_client.state_folder import DAMAGED, TEMPORARY, remedy, set_aside, sync_folder, write_durably
from shared.durable import make_folder
from shared.errors import ConfigError
from shared.task import Arrays

__all__ = ["CURRENT", "LocalState", "pack", "read_state"]

KEPT_RUNS = 4
"""Runs whose state is kept; the one used longest ago goes first."""
CURRENT = ".state"
"""Suffix of a file with current state; its stem is the run."""
_PENDING = ".pending"
_DIGEST_BYTES = 32


class LocalState:
    """The state of one device, of every run. All methods touch the disk.

    Args:
        folder: made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._in_memory: dict[str, tuple[str, bytes]] = {}  # by lease: run and state that the disk did not take
        self._log = structlog.get_logger()

    def open(self, leases: Collection[str]) -> None:
        """Begin: delete what waits for leases that nobody holds, name what is damaged.

        Args:
            leases: whose reports are here; of any other the power went before its report was durable.

        Raises:
            ConfigError: the folder cannot be used.
        """
        try:
            for path in self._folder.glob(f"*{_PENDING}"):
                if path.name.partition(".")[0] not in leases:
                    path.unlink()
            for path in self._folder.glob(f"*{TEMPORARY}"):
                path.unlink()
        except OSError as error:
            raise ConfigError(
                f"cannot be used: {error.strerror}", where=str(self._folder), hint="see who may write to it"
            ) from error
        for path in sorted(self._folder.glob(f"*{DAMAGED}")):
            self._name(path.stem, "it was set aside before")

    def current(self, run: str) -> Arrays:
        """Return what this client returned last and had accepted; {} at first, or when the file is damaged."""
        path = self._folder / f"{run}{CURRENT}"
        if not path.exists():
            return {}
        try:
            return read_state(path)
        except (OSError, ValueError) as error:
            set_aside(path)
            self._name(run, str(error))
            return {}

    def stage(self, lease: str, run: str, arrays: Arrays) -> None:
        """Keep new state until the lease is final; in memory when the disk takes no more, as the report then is.

        Raises:
            TypeError: an array is of a kind that cannot be kept.
        """
        if not arrays and not (self._folder / f"{run}{CURRENT}").exists():
            return
        packed = pack(arrays)
        packed = hashlib.sha256(packed).digest() + packed
        try:
            make_folder(self._folder)
            write_durably(self._folder / f"{lease}.{run}{_PENDING}", packed)
        except OSError as error:
            self._in_memory[lease] = run, packed
            self._log.error("local_state_not_durable", lease=lease, run=run, cause=str(error))

    def accept(self, lease: str) -> None:
        """The update counts: its state is current from now on. A second time nothing happens.

        Raises:
            OSError: the disk takes no more; what was current stays so.
        """
        if lease in self._in_memory:
            run, packed = self._in_memory.pop(lease)
            make_folder(self._folder)
            write_durably(self._folder / f"{run}{CURRENT}", packed)
        for path in self._waiting(lease):
            run = path.name.removeprefix(f"{lease}.").removesuffix(_PENDING)
            path.replace(self._folder / f"{run}{CURRENT}")
            sync_folder(self._folder)
            self._forget_old_runs()

    def roll_back(self, lease: str) -> None:
        """The update does not count: what was current stays so."""
        self._in_memory.pop(lease, None)
        for path in self._waiting(lease):
            path.unlink()

    def _waiting(self, lease: str) -> list[Path]:
        # one pattern for every lease: pathlib compiles each new one anew, and forgets none
        return [path for path in self._folder.glob(f"*{_PENDING}") if path.name.startswith(f"{lease}.")]

    def _name(self, run: str, cause: str) -> None:
        self._log.error(
            "local_state_damaged",
            run=run,
            cause=cause,
            so="this client goes on without what it had kept",
            remedy=remedy(self._folder.parent, run),
        )

    def _forget_old_runs(self) -> None:
        newest_first = sorted(self._folder.glob(f"*{CURRENT}"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for path in newest_first[KEPT_RUNS:]:
            path.unlink()


def read_state(path: Path) -> Arrays:
    """Read and check one file.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    packed = data[_DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != data[:_DIGEST_BYTES]:
        raise ValueError("it has another checksum")
    try:
        return load(packed)
    except SafetensorError as error:
        raise ValueError(f"it holds no arrays: {error}") from error


def pack(arrays: Arrays) -> bytes:
    """Return arrays as safetensors.

    Raises:
        TypeError: one is no array, or of a dtype that cannot be kept.
    """
    try:
        packed: bytes = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    except (KeyError, SafetensorError, AttributeError) as error:
        raise TypeError(f"state cannot be kept: {error}") from error
    return packed
