"""What a client algorithm keeps between rounds, keyed by lease until its update is accepted.

A device whose update was refused must go on from the state before it, or its error feedback and control variates drift
away from the server's. So new state waits beside the outbox entry, becomes current when the lease is accepted, and is
deleted otherwise.

Not here: the update itself (`outbox.py`), the command for people (`outbox_command.py`).
"""

import hashlib
from collections.abc import Collection
from contextlib import suppress

import numpy as np
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_client.files import Files
from edge_client.state_folder import DAMAGED, TEMPORARY, damaged_name, remedy
from shared.errors import ConfigError
from shared.task import Arrays

__all__ = ["CURRENT", "KEPT_RUNS", "LocalState", "pack", "read_state", "sealed"]

KEPT_RUNS = 4
"""Runs whose state is kept; the one used longest ago goes first."""
CURRENT = ".state"
"""Suffix of a file with current state; its stem is the run."""
_PENDING = ".pending"
_DIGEST_BYTES = 32


class LocalState:
    """The state of one device, of every run. All methods touch the disk.

    Args:
        files: of its folder, which is made when first needed.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
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
            for name in self._files.names(_PENDING):
                if name.partition(".")[0] not in leases:
                    self._files.delete(name)
            for name in self._files.names(TEMPORARY):
                self._files.delete(name)
        except OSError as error:
            raise ConfigError(
                f"cannot be used: {error.strerror}", where=str(self._files.path), hint="see who may write to it"
            ) from error
        for name in self._files.names(DAMAGED):
            run = name.removesuffix(DAMAGED)
            if not self._files.has(f"{run}{CURRENT}"):
                self._name(run, "it was set aside before")

    def current(self, run: str) -> Arrays:
        """Return what this client returned last and had accepted; {} at first, or when the file is damaged."""
        name = f"{run}{CURRENT}"
        if not self._files.has(name):
            return {}
        try:
            return read_state(self._files.read(name))
        except (OSError, ValueError) as error:
            with suppress(OSError):  # what cannot be set aside stays; the next state that is accepted takes its place
                self._files.rename(name, damaged_name(name))
            self._name(run, str(error))
            return {}

    def stage(self, lease: str, run: str, arrays: Arrays) -> None:
        """Keep new state until the lease is final; in memory when the disk takes no more, as the report then is.

        Raises:
            TypeError: an array is of a kind that cannot be kept.
        """
        if not arrays and not self._files.has(f"{run}{CURRENT}"):
            return
        packed = sealed(arrays)
        try:
            self._files.make()
            self._files.write_durably(f"{lease}.{run}{_PENDING}", packed)
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
            self._files.make()
            self._files.write_durably(f"{run}{CURRENT}", packed)
        for name in self._waiting(lease):
            run = name.removeprefix(f"{lease}.").removesuffix(_PENDING)
            self._files.rename(name, f"{run}{CURRENT}")
            self._files.sync()
            self._forget_old_runs()

    def roll_back(self, lease: str) -> None:
        """The update does not count: what was current stays so."""
        self._in_memory.pop(lease, None)
        for name in self._waiting(lease):
            self._files.delete(name)

    def _waiting(self, lease: str) -> list[str]:
        return [name for name in self._files.names(_PENDING) if name.startswith(f"{lease}.")]

    def _name(self, run: str, cause: str) -> None:
        self._log.error(
            "local_state_damaged",
            run=run,
            cause=cause,
            so="this client goes on without what it had kept",
            remedy=remedy(self._files.path.parent, run),
        )

    def _forget_old_runs(self) -> None:
        for name in self._files.newest_first(CURRENT)[KEPT_RUNS:]:
            self._files.delete(name)


def read_state(data: bytes) -> Arrays:
    """Return what a file holds.

    Raises:
        ValueError: it is damaged.
    """
    packed = data[_DIGEST_BYTES:]
    if hashlib.sha256(packed).digest() != data[:_DIGEST_BYTES]:
        raise ValueError("it has another checksum")
    try:
        return load(packed)
    except SafetensorError as error:
        raise ValueError(f"it holds no arrays: {error}") from error


def sealed(arrays: Arrays) -> bytes:
    """Return what `read_state` reads: arrays under their checksum.

    Raises:
        TypeError: as for `pack`.
    """
    packed = pack(arrays)
    return hashlib.sha256(packed).digest() + packed


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
