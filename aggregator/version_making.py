"""Sums and versions, one after the other, in the order of the journal: fold, make, evaluate, write.

Not here: the arithmetic and the files (`aggregation.py`), when a version is due (`round_machine.py`).
"""

import asyncio
import errno
from collections.abc import Callable
from functools import partial

import structlog

from aggregator.aggregation import Aggregation
from aggregator.commands import Aggregate, Fold, Forget
from aggregator.config import Settings
from aggregator.evaluation import Evaluator, central_metrics
from aggregator.events import AggregationFailed, Event, VersionWritten
from aggregator.model_store import ServerState
from aggregator.publishing import ModelBlob, model_blob
from aggregator.tally import Tally
from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError, FederationError

__all__ = ["VersionMaking"]

log = structlog.get_logger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
"""What a disk says that takes no more; None: safetensors, which has words alone."""


class VersionMaking:
    """One worker for everything that touches the sums.

    Args:
        settings: of the run.
        aggregation: its sums and its last version.
        tally: what counts for which version, read only.
        evaluator: asked for central metrics.
        blob: of the last version.
        run_blocking: the seam to threads.
        participants: devices whose updates are in the last version.
        tell: takes events for the round machine.
    """

    def __init__(
        self,
        settings: Settings,
        aggregation: Aggregation,
        tally: Tally,
        evaluator: Evaluator,
        blob: ModelBlob,
        run_blocking: RunBlocking,
        *,
        participants: tuple[str, ...],
        tell: Callable[[Event], None],
    ) -> None:
        self._settings, self._aggregation, self._tally, self._evaluator = settings, aggregation, tally, evaluator
        self._run_blocking, self._tell = run_blocking, tell
        self._queue: asyncio.Queue[Fold | Aggregate | Forget] = asyncio.Queue()
        self.blob = blob
        """The newest version, cut for the wire; committed once its row is durable."""
        self.spent: tuple[str, ...] = ()
        """Leases whose updates are in it."""
        self.participants = participants
        """Devices whose updates are in it."""

    def put(self, command: Fold | Aggregate | Forget) -> None:
        """Queue a command whose row is durable."""
        self._queue.put_nowait(command)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            command = await self._queue.get()
            try:
                match command:
                    case Fold():
                        await self._fold(command)
                    case Forget(into=into):
                        self._aggregation.forget(into)
                    case Aggregate():
                        await self._make(command)
            except (FederationError, OSError) as error:
                is_full = isinstance(error, OSError) and error.errno in FULL
                log.error("aggregation_failed", error=str(error))
                self._tell(AggregationFailed(detail=str(error), is_disk_full=is_full))

    async def _fold(self, command: Fold) -> None:
        """Fold as it comes; what fails now is folded again when the version is made, and stops the run then."""
        try:
            await self._aggregation.fold(command.record)
        except (FederationError, OSError) as error:
            log.error("fold_failed", lease=command.record.lease, error=str(error))
            self._aggregation.forget(command.record.into)

    async def _make(self, command: Aggregate) -> None:
        if command.into <= self._aggregation.state.version:  # asked for twice
            return
        records = [record for record in self._tally.accepted() if record.into == command.into]
        state = await self._aggregation.make(command.into, command.round_id, records)
        metrics = await self._metrics(state)
        chunk_bytes = self._settings.transfer.chunk_bytes
        cut = partial(model_blob, state.parameters, state.spec, state.version, chunk_bytes)
        blob = await self._run_blocking(Lane.COMPUTE, cut)
        await self._aggregation.write(state)  # last: what fails before can be tried again
        self.blob = blob
        self.spent = tuple(record.lease for record in records)
        self.participants = tuple(sorted(record.device for record in records))
        self._tell(
            VersionWritten(version=state.version, digest=self.blob.ref.digest, metrics=tuple(sorted(metrics.items())))
        )

    async def _metrics(self, state: ServerState) -> dict[str, float]:
        """Evaluate centrally where that is due; a task that fails at it does not stop the training."""
        every = self._settings.evaluation.central_every
        if not every or (state.version % every and state.version != self._settings.stop.rounds):
            return {}
        try:
            evaluated = await self._evaluator.evaluate(*state.model, state.constants)
        except ConfigError as error:
            log.error("central_evaluation_failed", version=state.version, error=str(error))
            return {}
        return {} if evaluated is None else central_metrics(evaluated)
