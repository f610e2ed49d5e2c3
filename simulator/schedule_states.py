"""What must hold of the states that SCAFFOLD and FedDyn keep on devices, whoever died: each is reckoned anew.

From the journal's rows, and from what the task saw and computed, each device's state is made again by formulas of this
file alone. What a device's gradients were corrected by, what it sent of its state, what the server has summed up and
what lies on devices' disks at the end are held against that.

Not here: everything else that must hold (`schedule_witness.py`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aggregator.config import Settings
from aggregator.model_store import ServerState
from aggregator.records import AcceptRecord, LeaseRecord, OutcomeRecord, Record
from edge_client.local_state import read_state
from shared.codecs import codec_named, decode_vector
from shared.errors import Reason
from shared.messages import WorkOrder
from shared.parameters import Vector
from simulator.schedule_task import DrawnTask, Trained
from simulator.schedule_updates import UpdateBooks

__all__ = ["StateBooks"]

CLOSE = 1e-5
"""Relative: both sides reckon in float32, in another order."""


class StateBooks:
    """The states of one run.

    Args:
        settings: of it.
        records: the journal's rows.
        task: that the devices trained.
        updates: what devices have sent.
        note: takes each violation.
    """

    def __init__(
        self,
        settings: Settings,
        records: Sequence[Record],
        task: DrawnTask,
        updates: UpdateBooks,
        note: Callable[[str], None],
    ) -> None:
        self._task, self._updates, self._note = task, updates, note
        self._is_scaffold = settings.training.algorithm == "scaffold"
        self._population = settings.server.population or 0
        leased = [record for record in records if isinstance(record, LeaseRecord)]
        self._orders = {each.lease: WorkOrder.model_validate_json(each.work) for each in leased if each.work}
        self._devices = {each.lease: each.device for each in leased}
        self._forgot = {
            self._devices[each.lease]
            for each in records
            if isinstance(each, OutcomeRecord) and each.reason is Reason.STATE
        }
        self._newest: dict[str, str] = {}  # device -> lease of its newest update that counts
        self._lines: dict[str, str] = {}  # lease -> the lease with which its device began
        self._current: dict[str, Vector] = {}  # by that one: what is kept
        self.states: dict[str, Vector] = {}
        """What is kept with each update that counts, by its lease: (n_params,) float32."""

    def update_of(self, record: AcceptRecord, state: ServerState) -> bytes:
        """Enter an update that counts; return what its device must have sent.

        Args:
            record: its row.
            state: of the version that it was trained from.
        """
        order = self._orders[record.lease]
        before = self._before(record, order)
        c = state.parameters[state.spec.own.n_params :]
        trained = self._trained(record, order, (c - before) if self._is_scaffold else -before)
        change = -c - trained.delta.astype(float) / (record.n_steps * order.learning_rate) if self._is_scaffold else c
        payload = self._updates.sent(record, [np.concatenate([trained.delta, change]).astype(np.float32)])
        sent = decode_vector(codec_named(record.codec), payload, len(trained.delta) + len(change))
        moved = sent[len(trained.delta) :] if self._is_scaffold else np.float32(-(order.alpha or 0.0)) * sent
        self.states[record.lease] = self._current[self._lines[record.lease]] = before + moved
        self._newest[record.device] = record.lease
        return payload

    def judge_version(self, state: ServerState) -> None:
        """Hold a version against the sum of what devices keep: N c = Σ c_i, N h = Σ g_k."""
        total = np.sum([each.astype(np.float64) for each in self._current.values()], axis=0)
        n = len(self._current)
        if int(state.optimizer["algorithm/n"]) != n:
            self._note(f"version {state.version} counts {state.optimizer['algorithm/n']} states, devices keep {n}")
        sums = {"the server's sum": state.optimizer["algorithm/sum"]}
        if self._is_scaffold:
            sums["N c"] = max(n, self._population) * state.parameters[state.spec.own.n_params :]
        for what, found in sums.items():
            if not _are_close(found, total):
                self._note(f"{what} of version {state.version} is off what devices keep by {_gap(found, total):.3g}")

    def judge_disks(self, folders: Mapping[str, Path]) -> int:
        """Hold what lies on devices' disks against what they must keep; return how many states that were.

        Args:
            folders: of each device, by its name.
        """
        n_held = 0
        for device, folder in folders.items():
            for lease, kept in _on_disk(folder / "state"):
                if lease not in self.states:
                    continue  # nobody heard what became of it before the run was over
                n_held += 1
                if self._devices[lease] != device or not np.array_equal(kept, self.states[lease]):
                    self._note(f"{device} keeps another state of lease {lease} than its update counts for")
        return n_held

    def _before(self, record: AcceptRecord, order: WorkOrder) -> Vector:
        """Return what work went on from, and enter which device's line of states it continues."""
        newest = self._newest.get(record.device)
        if order.state_of != newest and not (order.state_of is None and record.device in self._forgot):
            self._note(f"lease {record.lease} went on from the state of {order.state_of}, {newest} counted last")
        if record.begins != (order.state_of is None):
            self._note(f"lease {record.lease} went on from the state of {order.state_of}, its row says otherwise")
        if order.state_of is None or order.state_of not in self.states:
            self._lines[record.lease] = record.lease
            return np.zeros(self._task.n_params, np.float32)
        self._lines[record.lease] = self._lines[order.state_of]
        return self.states[order.state_of]

    def _trained(self, record: AcceptRecord, order: WorkOrder, correction: Vector) -> Trained:
        """Return what the device computed, with the correction that it must have had.

        Several leases of one round have one seed, and those that do not count may have had another.
        """
        found = self._task.trained[record.device, order.seed]
        mu = 0.0 if self._is_scaffold else order.alpha
        right = [each for each in found if each.mu == mu and _are_close(each.correction, correction)]
        if not right:
            gap = min(_gap(each.correction, correction) for each in found)
            self._note(f"{record.device} was corrected by what it does not keep under {record.lease}: off by {gap:.3g}")
        return (right or found)[0]


def _on_disk(folder: Path) -> Iterator[tuple[str, Vector]]:
    for path in sorted(folder.glob("*.algorithm")):
        (kept,) = read_state(path.read_bytes()).values()
        yield path.name.partition(".")[0], kept


def _gap(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.abs(one.astype(np.float64) - other).max(initial=0.0))


def _are_close(one: NDArray[np.floating], other: NDArray[np.floating]) -> bool:
    scale = max(1.0, float(np.abs(other).max(initial=0.0)))
    return one.shape == other.shape and _gap(one, other) <= CLOSE * scale
