"""From accepted updates to the next version: fold in the order of the journal, finalize, step, write.

O(model) memory however many devices report: one float64 sum, the model, the next model.

Not here: when a round is closed (`round_machine.py`), the arithmetic (`rules/`, `server_algorithm.py`,
`server_optimizers/`).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.config import Settings
from aggregator.device_states import Counted
from aggregator.folding import fold
from aggregator.learning_rates import LearningRates
from aggregator.learning_settings import TrainingSettings
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord
from aggregator.rules import AggregationRule, CohortRule, OpenRound, QFedAvg, load_cohort_rule, rule_of
from aggregator.schedule_loading import load_rates
from aggregator.server_algorithm import algorithm_of
from aggregator.server_optimizers import LOWER, ServerOptimizer, advance, load_optimizer
from aggregator.update_rows import UpdateRows
from shared.blocking import Lane, RunBlocking
from shared.codecs import codec_named
from shared.errors import ConfigError, InvalidState
from shared.parameters import Vector

__all__ = ["Aggregation"]


class Aggregation:
    """Makes versions of one run.

    Args:
        settings: of the run.
        state: the last committed version.
        part_files: where updates that did not come inline lie.
        store: where versions go.
        run_blocking: the seam to threads.
        optimizer: moves the model; None: as the settings say, one of the user's own from the current folder.
        rates: at which; None: likewise.
        over_cohort: how updates become one; None: likewise, or the mean.

    Raises:
        ConfigError: the settings name an optimizer or a schedule that there is not.
    """

    def __init__(
        self,
        settings: Settings,
        state: ServerState,
        part_files: PartFiles,
        store: ModelStore,
        run_blocking: RunBlocking,
        optimizer: ServerOptimizer | None = None,
        rates: LearningRates | None = None,
        over_cohort: CohortRule | None = None,
    ) -> None:
        self.state = state
        self._settings, self._part_files, self._store, self._run_blocking = settings, part_files, store, run_blocking
        server = settings.server
        training = settings.training
        self._algorithm = algorithm_of(training.algorithm, alpha=training.alpha, population=server.population)
        self._rule: AggregationRule[Any] = (
            rule_of(
                over_cohort or load_cohort_rule(server.rule, Path.cwd()),
                partial(UpdateRows, store.folder),
                normalize=server.normalize,
                is_trainable=state.spec.is_trainable,
            )
            if training.q is None
            else QFedAvg(training.q, state.spec.is_trainable)
        )
        self._optimizer = optimizer or load_optimizer(server.optimizer, Path.cwd())
        self._rates = rates or load_rates(settings, Path.cwd())
        self._sums: dict[int, OpenRound] = {}  # into -> what was folded for it

    async def fold(self, record: AcceptRecord) -> None:
        """Add a durable update to the sum of its `into`."""
        await self._run_blocking(Lane.COMPUTE, partial(self._fold, record))

    def forget(self, into: int) -> None:
        """Throw away what was folded for a version."""
        self._sums.pop(into, None)

    async def make(self, into: int, round_id: int, records: Sequence[AcceptRecord]) -> ServerState:
        """Return the next version, not yet written.

        Args:
            into: its number.
            round_id: of the round that closes with it.
            records: everything that counts for it, in the order of their seq.

        Raises:
            ConfigError: it, what travels with it, or what the optimizer keeps, is not finite. It can be tried again.
        """
        return await self._run_blocking(Lane.COMPUTE, partial(self._make, into, round_id, records))

    async def write(self, state: ServerState) -> None:
        """Make a version durable; from now on it is the one to build on."""
        await self._run_blocking(Lane.DISK, partial(self._store.save, state))
        self.state = state

    def _fold(self, record: AcceptRecord) -> None:
        total = self._sums.get(record.into)
        if total is None:
            total = self._sums[record.into] = self._rule.init(self.state.spec.n_params)
        data = record.data if record.data is not None else self._part_files.open(record.lease).data
        codec = codec_named(record.codec, self.state.spec)
        scale = record.clip_scale * record.discount
        n_steps = record.n_steps if record.effective_steps is None else record.effective_steps
        fold(self._rule_for(record), total, codec, data, weight=record.weight, scale=scale, n_steps=n_steps)

    def _rule_for(self, record: AcceptRecord) -> AggregationRule[Any]:
        """Return the rule, which for q-FedAvg is told what one update began with."""
        if not isinstance(self._rule, QFedAvg):
            return self._rule
        if record.initial_loss is None or record.learning_rate is None:
            raise InvalidState(f"the row of lease {record.lease} has not the loss that qfedavg weighs by")
        return self._rule.told(loss=record.initial_loss, learning_rate=record.learning_rate)

    def _make(self, into: int, round_id: int, records: Sequence[AcceptRecord]) -> ServerState:
        # a sum is used up by finalizing it: after a failure it is folded again
        if into not in self._sums or self._sums[into].n_updates != len(records):
            self._sums.pop(into, None)
            for record in records:
                self._fold(record)
        mean = self._rule.finalize(self._sums.pop(into))
        rate = self._rates.step(into - 1)
        old = self.state
        counted = [Counted(record.device, record.lease, record.begins) for record in records]
        delta, auxiliary, kept = self._algorithm.step(old.optimizer, mean, old.spec, counted)
        before, spec = old.model
        name = self._settings.server.optimizer.name
        remedy = _remedy(self._settings.training)
        parameters, optimizer = advance(name, self._optimizer, old.optimizer, before, delta, spec, rate, remedy=remedy)
        _check_finite(auxiliary, self._settings.training.algorithm)
        return ServerState(
            version=into,
            round_id=round_id,
            spec=old.spec,
            parameters=np.concatenate([parameters, auxiliary]) if len(auxiliary) else parameters,
            optimizer={**optimizer, **kept},
            constants=old.constants,
        )


def _check_finite(auxiliary: Vector, algorithm: str) -> None:
    if not np.isfinite(auxiliary).all():
        raise ConfigError(
            f"what {algorithm} lets travel with the next model is not finite",
            hint=f"the run diverges: {LOWER}",
        )


def _remedy(training: TrainingSettings) -> str:
    """Return what to change when a version is not finite."""
    return LOWER if training.alpha is None else f"raise training.alpha, {training.alpha:g} now, or {LOWER}"
