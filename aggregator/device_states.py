"""From the state of which update each device's next work goes on: that of its newest one that counts.

A receipt may be lost, and an accepted update be thrown away (`resume --void`, a repair). So it is the aggregator that
says, in each assignment, whose state the work goes on from (`WorkOrder.state_of`). A device that lacks that state says
so; then it begins from nothing, and counts as one more device.

Which update of which device is in a version lies in the version file, under 64 bits of a hash of the device's id, so
that version and states belong together whatever becomes of the journal's older rows.

Pure. Not here: the states themselves, which stay on the devices, and their sum (`server_algorithm.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.messages import WorkOrder

__all__ = ["Counted", "DeviceStates", "names_of"]

_DEVICES, _LEASES = "algorithm/devices", "algorithm/leases"
_LEASE_BYTES = 16


class Counted(NamedTuple):
    """An update that counts: `begins` when its work went on from nothing."""

    device: str
    lease: str
    begins: bool


def names_of(state: Mapping[str, NDArray[Any]], counted: Sequence[Counted]) -> dict[str, NDArray[Any]]:
    """Return whose newest update is which, with these on top, as it lies in a version file.

    Args:
        state: of the version before; {}: nothing.
        counted: what the next version is made of.

    Returns:
        algorithm/devices: (n,) uint64, ascending; algorithm/leases: (n, 16) uint8.
    """
    newest = _read(state)
    newest |= {_key(each.device): each.lease for each in counted}
    devices = sorted(newest)
    leases = b"".join(bytes.fromhex(newest[key]) for key in devices)
    return {
        _DEVICES: np.array(devices, np.uint64),
        _LEASES: np.frombuffer(leases, np.uint8).reshape(len(devices), _LEASE_BYTES),
    }


class DeviceStates:
    """The books of one run.

    Args:
        are_kept: whether the run's algorithm lets devices keep anything; else nothing is entered.
    """

    def __init__(self, *, are_kept: bool) -> None:
        self._are_kept = are_kept
        self._committed: dict[int, str] = {}
        self._waiting: dict[int, str] = {}  # accepted, and in no version yet
        self._lost: set[int] = set()

    def of(self, device: str) -> str | None:
        """Return the lease from whose state a device's next work goes on; None: from nothing."""
        key = _key(device) if self._are_kept else 0
        return self._waiting.get(key) or self._committed.get(key)

    def begins(self, work: str) -> bool:
        """Return whether work, as its lease has it, went on from nothing."""
        return self._are_kept and bool(work) and WorkOrder.model_validate_json(work).state_of is None

    def accepted(self, device: str, lease: str) -> None:
        """An update counts for the next version."""
        if self._are_kept:
            self._waiting[_key(device)] = lease

    def committed(self) -> None:
        """What was accepted is in a version."""
        self._committed |= self._waiting
        self._lost -= self._waiting.keys()
        self._waiting = {}

    def voided(self, device: str) -> None:
        """What a device had accepted for the next version was thrown away."""
        self._waiting.pop(_key(device), None)

    def lost(self, device: str, work: str) -> None:
        """A device has not the state that this work was to go on from.

        Args:
            device: which.
            work: as its lease has it; of an older one that says nothing of the newest.
        """
        if not self._are_kept or not work:
            return
        key = _key(device)
        if WorkOrder.model_validate_json(work).state_of == self._committed.get(key) and key not in self._waiting:
            self._committed.pop(key, None)
            self._lost.add(key)

    def adopt(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go by what lies in the committed version's file, wherever the journal says otherwise.

        Args:
            state: of the version; {}: nothing.
        """
        self._committed |= {key: lease for key, lease in _read(state).items() if key not in self._lost}


def _read(state: Mapping[str, NDArray[Any]]) -> dict[int, str]:
    if _DEVICES not in state:
        return {}
    leases = (bytes(lease).hex() for lease in state[_LEASES])
    return dict(zip(state[_DEVICES].tolist(), leases, strict=True))


def _key(device: str) -> int:
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8])
