"""What a device algorithm keeps of a run, by the lease of the update that it belongs to.

SCAFFOLD and FedDyn go on, on a device, from the state of its last update that counts, and the aggregator alone knows
which one that is: a receipt may be lost, and what was accepted may be thrown away by an operator. So an assignment says
from the state of which lease its work goes on, and the states of all that it may still name are kept: that of each
update without an outcome, of the newest that was accepted, and of the one that this was trained from, for the case that
the newest is thrown away. That is three models' worth on disk at most, as a rule two.

Not here: the numbers (`shared/algorithms.py`), the task's own state (`local_state.py`).
"""

from collections.abc import Collection
from typing import NamedTuple

import structlog

from edge_client.files import Files
from edge_client.local_state import KEPT_RUNS, read_state, sealed
from shared.errors import PeerError, Reason
from shared.task import Arrays

__all__ = ["AlgorithmStates"]

_SUFFIX = ".algorithm"
_NOTHING = "none"
"""In the name of a file: its work began from nothing."""


class _Name(NamedTuple):
    """lease.parent.run.algorithm: none of them has a dot in it."""

    lease: str
    parent: str
    run: str

    def __str__(self) -> str:
        return f"{self.lease}.{self.parent}.{self.run}{_SUFFIX}"


class AlgorithmStates:
    """The states of one device, of every run. All methods touch the disk.

    Args:
        files: of its folder, which is made when first needed.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._in_memory: dict[str, tuple[_Name, bytes]] = {}  # by lease: what the disk did not take
        self._log = structlog.get_logger()

    def of(self, run: str, lease: str | None) -> Arrays:
        """Return what is kept since an update.

        Args:
            run: which run.
            lease: of the update; None: from nothing.

        Raises:
            PeerError: it is not here, or damaged (`state`): say so, and the aggregator lets this device begin anew.
        """
        if lease is None:
            return {}
        if lease in self._in_memory:
            return read_state(self._in_memory[lease][1])
        for name in self._names():
            if (name.lease, name.run) == (lease, run):
                try:
                    return read_state(self._files.read(str(name)))
                except (OSError, ValueError) as error:
                    raise PeerError(Reason.STATE, f"what this device had kept is damaged: {error}") from error
        raise PeerError(Reason.STATE, f"this device has not what it had kept of run {run}: was its folder deleted?")

    def stage(self, lease: str, run: str, arrays: Arrays, *, parent: str | None) -> None:
        """Keep a new state before its update is offered; in memory when the disk takes no more, as the report then is.

        Args:
            lease: of the update.
            run: which run.
            arrays: what is kept.
            parent: the lease from whose state it was trained.
        """
        name = _Name(lease, parent or _NOTHING, run)
        packed = sealed(arrays)
        try:
            self._files.make()
            self._files.write_durably(str(name), packed)
        except OSError as error:
            self._in_memory[lease] = name, packed
            self._log.error("algorithm_state_not_durable", lease=lease, run=run, cause=str(error))

    def accept(self, lease: str, held: Collection[str]) -> None:
        """An update counts: delete the states of its run that no assignment can name any more.

        Args:
            lease: of the update.
            held: leases without a final outcome.

        Raises:
            OSError: the disk takes no more; the state is still in memory.
        """
        if lease in self._in_memory:
            name, packed = self._in_memory[lease]
            self._files.make()
            self._files.write_durably(str(name), packed)
            del self._in_memory[lease]
        names = self._names()
        this = next((name for name in names if name.lease == lease), None)
        if this is None:
            return
        for name in names:
            is_wanted = name.lease in (lease, this.parent, *held) or name.parent == lease
            if name.run == this.run and not is_wanted:
                self._files.delete(str(name))
        self._forget_old_runs(this.run)

    def roll_back(self, lease: str) -> None:
        """The update does not count: neither does its state."""
        self._in_memory.pop(lease, None)
        for name in self._names():
            if name.lease == lease:
                self._files.delete(str(name))

    def _names(self) -> list[_Name]:
        return _parsed(self._files.names(_SUFFIX))

    def _forget_old_runs(self, current: str) -> None:
        runs = dict.fromkeys([current, *(name.run for name in _parsed(self._files.newest_first(_SUFFIX)))])
        gone = set(list(runs)[KEPT_RUNS:])
        for name in self._names() if gone else ():
            if name.run in gone:
                self._files.delete(str(name))


def _parsed(names: list[str]) -> list[_Name]:
    parts = [name.removesuffix(_SUFFIX).split(".") for name in names]
    return [_Name(*each) for each in parts if len(each) == 3]
