"""The device's own work: fetched models, the training that runs, the reports that are kept.

Everything here is slow and goes through `RunBlocking`; nothing here decides.

Not here: when (`participant_machine.py`), the link (`service.py`).
"""

import contextvars
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from edge_client.advice import advice_for
from edge_client.algorithm_states import AlgorithmStates
from edge_client.config import EdgeSettings
from edge_client.events import HeldReport, Settle
from edge_client.files import Files, OnDisk
from edge_client.local_state import LocalState
from edge_client.model_cache import CachedModel, ModelCache
from edge_client.outbox import Outbox
from edge_client.saved_numbers import SavedNumber
from edge_client.training import CarryOut, Finished, Gate, carry_out
from edge_client.training_line import TrainingLine
from edge_client.upload import LEAST_CHUNK_BYTES
from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError, InvalidState, PeerError, Reason
from shared.messages import Assignment, ModelRef, Outcome
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Client, Task

__all__ = ["DeviceWork", "spec_of"]

SECONDS_A_DAY = 86_400
T = TypeVar("T")


def spec_of(task: Task) -> ParameterSpec:
    """Return names, shapes and dtypes of a task's model.

    Raises:
        ConfigError: the task raises, or what it returns is no model.
    """
    try:
        return ParameterSpec.of(task.initial_parameters(0))
    except ConfigError:
        raise
    except Exception as error:  # a user's task may raise anything
        raise ConfigError(f"initial_parameters(0) failed with {type(error).__name__}: {error}", where="task") from error


class DeviceWork:
    """What one device has on its disk, and the one training that runs.

    Args:
        settings: quotas.
        task: the user's.
        client: whose data it is.
        run_blocking: threads, or virtual time.
        clock: monotonic seconds; called in the training lane.
        line: of all that train in this lane; default: this device alone.
        files: where all that lies; default: in the folder that the settings name.
        carry_out: `training.carry_out`; a rehearsed attacker has another.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        task: Task,
        client: Client,
        run_blocking: RunBlocking,
        clock: Callable[[], float] = time.monotonic,
        line: TrainingLine | None = None,
        files: Files | None = None,
        carry_out: CarryOut = carry_out,
    ) -> None:
        files = files or OnDisk(settings.state_folder(client.id))
        self._task, self._client, self._run_blocking, self._clock = task, client, run_blocking, clock
        self._chunk_bytes = SavedNumber(files, "chunk_bytes", least=LEAST_CHUNK_BYTES)
        self._epoch = SavedNumber(files, "epoch", least=0)
        self.saved_chunk_bytes: int | None = None
        """The chunk size that this link had come down to before the start; None: nothing known."""
        self.saved_epoch: int | None = None
        """The highest epoch seen before the start; None: none."""
        self.outbox = Outbox(
            files.below("outbox"),
            quota_bytes=settings.outbox.quota_bytes,
            keep_s=settings.outbox.keep_days * SECONDS_A_DAY,
            clock=clock,
        )
        self.cache = ModelCache(files.below("models"), settings.cache.quota_bytes)
        self._keeps_state = settings.keeps_state
        self._state = LocalState(files.below("state"))
        self._kept = AlgorithmStates(files.below("state"))
        self._line, self._carry_out = line or TrainingLine(), carry_out
        self._spec: ParameterSpec | None = None
        self._cached: CachedModel | None = None
        self._offered: set[str] = set()
        self._gates: dict[str, Gate] = {}  # one training runs, cancelled ones may still be ending
        self._log = structlog.get_logger()

    @property
    def spec(self) -> ParameterSpec:
        """Of the task's model; known once `open` has returned."""
        if self._spec is None:
            raise InvalidState("the spec of a device that was not opened")
        return self._spec

    async def open(self, spec: ParameterSpec | None) -> None:
        """Read what is there, and ask the task for its spec unless it is given.

        Raises:
            ConfigError: the task does not say what its model is, or the folder cannot be used.
        """
        self._spec = spec or await self.blocking(Lane.TRAINING, partial(spec_of, self._task))
        self.saved_chunk_bytes = await self.blocking(Lane.DISK, self._chunk_bytes.read)
        self.saved_epoch = await self.blocking(Lane.DISK, self._epoch.read)
        await self.blocking(Lane.DISK, self.outbox.load)
        leases = [entry.lease for entry in self.outbox.entries]
        self._offered.update(leases)  # perhaps, by an earlier life
        damaged = await self.blocking(Lane.DISK, lambda: self.outbox.damaged)
        await self.blocking(Lane.DISK, partial(self._state.open, {*leases, *damaged}))

    async def blocking(self, lane: Lane, work: Callable[[], T]) -> T:
        """Run something off the loop, with the log's fields of this device."""
        return await self._run_blocking(lane, partial(contextvars.copy_context().run, work))

    def held(self) -> list[HeldReport]:
        """Return the reports without a final outcome."""
        return [
            HeldReport(lease=entry.lease, run=entry.report.run, round=entry.round, version=entry.version)
            for entry in self.outbox.entries
        ]

    async def model(self, model: ModelRef) -> CachedModel:
        """Return what there is of a model; the one used last is not read again."""
        if self._cached is None or self._cached.model != model:
            self._cached = await self.blocking(Lane.DISK, partial(self.cache.open, model))
        return self._cached

    async def work(
        self, order: Assignment, *, fetch_s: float = 0.0, offline_s: Callable[[], float] = lambda: 0.0
    ) -> list[str] | None:
        """Train or evaluate with a model that has been fetched, and keep the report.

        Args:
            order: what to do.
            fetch_s: how long the model took, in seconds.
            offline_s: how long there has been no link since the assignment, in seconds; asked when the work is done.

        Returns:
            Leases of older reports that had to go for this one; None: cancelled, nothing was kept.
        """
        gate = Gate(self._clock, order.max_seconds)
        self._log.info("work_begun", kind=str(order.kind), round=order.round, lease=order.lease)
        self._gates[order.lease] = gate
        cached = await self.model(order.model)

        def received() -> tuple[ParameterSpec, Vector]:
            assert cached.index is not None
            return cached.index.spec, cached.read()

        def state() -> Arrays:
            return self._state.current(order.run) if self._keeps_state else {}

        def kept(lease: str | None) -> Arrays:
            if not self._keeps_state:
                raise PeerError(Reason.STATE, "this device keeps nothing of a training for the next (keeps_state)")
            return self._kept.of(order.run, lease)

        try:
            with self._line.place(gate):
                finished = await self.blocking(
                    Lane.TRAINING,
                    partial(
                        self._carry_out,
                        order,
                        task=self._task,
                        client=self._client,
                        received=received,
                        spec=self.spec,
                        state=state,
                        gate=gate,
                        kept=kept,
                        keeps_state=self._keeps_state,
                    ),
                )
            if finished is None or gate.is_cancelled:
                return None
            times = {"fetch_seconds": fetch_s, "offline_seconds": offline_s()}
            finished = replace(finished, report=finished.report.model_copy(update=times))
            return await self.blocking(Lane.DISK, partial(self._keep, order, finished))
        finally:
            gate.cancel()  # nobody waits any more: a training that still runs ends at its next batch
            if self._gates.get(order.lease) is gate:  # else the same lease is worked on again already
                del self._gates[order.lease]

    def cancel(self, lease: str) -> None:
        """Let a training end at its next batch."""
        if lease in self._gates:
            self._gates[lease].cancel()

    def fraction(self, lease: str) -> float | None:
        """Return how far a training is, its wait in line included, in [0, 1]; None: there is none."""
        return self._line.fraction(self._gates[lease]) if lease in self._gates else None

    async def settle(self, settle: Settle) -> None:
        """Apply a final outcome to the local state, remember the lease, delete the report."""
        entry = self.outbox.entry(settle.lease)
        fields: dict[str, object] = {
            "round": entry.round if entry is not None else None,
            "reason": str(settle.reason) if settle.reason is not None else None,
            "detail": settle.detail or None,
            "staleness": settle.staleness or None,
            "what_to_do": advice_for(settle.reason) if settle.outcome is not Outcome.ACCEPTED else None,
        }
        say = self._log.warning if settle.outcome is Outcome.REJECTED else self._log.info
        say(
            "report_settled" if entry is not None else "lease_ended",
            outcome=str(settle.outcome),
            lease=settle.lease,
            **{name: value for name, value in fields.items() if value is not None},
        )
        self._offered.discard(settle.lease)
        await self.blocking(Lane.DISK, partial(self._settle, settle))

    def is_first_offer(self, lease: str) -> bool:
        """Return whether this process offers a report for the first time; from then on it does not."""
        is_first = lease not in self._offered
        self._offered.add(lease)
        return is_first

    async def save_chunk_bytes(self, chunk_bytes: int | None) -> None:
        """Remember the chunk size that this link can take, in bytes; None: any."""
        await self.blocking(Lane.DISK, partial(self._chunk_bytes.write, chunk_bytes))

    async def save_epoch(self, epoch: int) -> None:
        """Remember the highest epoch seen."""
        await self.blocking(Lane.DISK, partial(self._epoch.write, epoch))

    def _keep(self, order: Assignment, finished: Finished) -> list[str]:
        if finished.state is not None and self._keeps_state:
            self._state.stage(order.lease, order.run, finished.state)
        if finished.kept is not None:
            parent = None if order.work is None else order.work.state_of
            self._kept.stage(order.lease, order.run, finished.kept, parent=parent)
        return self.outbox.put(
            finished.report, round=order.round, version=order.model.version, payload=finished.payload
        )

    def _settle(self, settle: Settle) -> None:
        try:
            if settle.outcome is Outcome.ACCEPTED:
                self._state.accept(settle.lease)
                self._kept.accept(settle.lease, [entry.lease for entry in self.outbox.entries])
            else:
                self._state.roll_back(settle.lease)
                self._kept.roll_back(settle.lease)
        except OSError as error:
            self._log.error("local_state_not_kept", lease=settle.lease, cause=str(error))
        self.outbox.conclude(settle.lease)
