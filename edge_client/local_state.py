"""What a client algorithm keeps between rounds, keyed by lease until its update is accepted.

A device whose update was refused must go on from the state before it, or its error feedback and control variates drift
away from the server's. So new state waits beside the outbox entry, becomes current when the lease is accepted, and is
deleted otherwise.

Not here: the update itself (`outbox.py`).
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import structlog
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_client.state_folder import TEMPORARY, sync_folder, write_durably
from shared.task import Arrays

__all__ = ["LocalState"]

KEPT_RUNS = 4
"""Runs whose state is kept; the one used longest ago goes first."""
_PENDING = ".pending"
_CURRENT = ".safetensors"


class LocalState:
    """The state of one device, of every run. All methods touch the disk.

    Args:
        folder: made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = structlog.get_logger()

    def current(self, run: str) -> Arrays:
        """Return what this client returned last and had accepted; {} at first, or when the file is damaged."""
        path = self._folder / f"{run}{_CURRENT}"
        if not path.exists():
            return {}
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            self._log.error("local_state_damaged", run=run, cause=str(error), kept_as=str(aside))
            return {}

    def stage(self, lease: str, run: str, arrays: Arrays) -> None:
        """Keep new state until the lease is final.

        Raises:
            TypeError: an array is of a kind that cannot be kept.
            OSError: the disk takes no more.
        """
        if not arrays and not (self._folder / f"{run}{_CURRENT}").exists():
            return
        packed = pack(arrays)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._folder / f"{lease}.{run}{_PENDING}", packed)

    def accept(self, lease: str) -> None:
        """The update counts: its state is current from now on."""
        for path in self._folder.glob(f"{lease}.*{_PENDING}"):
            run = path.name.removeprefix(f"{lease}.").removesuffix(_PENDING)
            path.replace(self._folder / f"{run}{_CURRENT}")
            sync_folder(self._folder)
            self._forget_old_runs()

    def roll_back(self, lease: str) -> None:
        """The update does not count: what was current stays so."""
        for path in self._folder.glob(f"{lease}.*{_PENDING}"):
            path.unlink()

    def keep_only(self, leases: Collection[str]) -> None:
        """Delete what waits for leases that nobody holds: the power went before their report was durable."""
        for path in self._folder.glob(f"*{_PENDING}"):
            if path.name.partition(".")[0] not in leases:
                path.unlink()
        for path in self._folder.glob(f"*{TEMPORARY}"):
            path.unlink()

    def _forget_old_runs(self) -> None:
        newest_first = sorted(self._folder.glob(f"*{_CURRENT}"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for path in newest_first[KEPT_RUNS:]:
            path.unlink()


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
