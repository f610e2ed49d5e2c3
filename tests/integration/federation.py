"""A federation without a network: what devices compute and keep, and what the server makes of it, call by call.

The code is that of the services; what is missing is everything between. For mathematics, and for what must hold whoever
is refused, forgets, or is thrown away.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.device_states import DeviceStates
from aggregator.evaluation import TaskEvaluator
from aggregator.learning_rates import built_in_rates
from aggregator.model_store import ModelStore
from aggregator.opening import first_state
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord
from edge_client.algorithm_states import AlgorithmStates
from edge_client.training import Finished, Gate, carry_out
from shared.algorithms import STATEFUL, effective_steps
from shared.blocking import at_once
from shared.messages import Assignment, Kind, ModelRef, Reported, WorkOrder
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Client, ClientId, Evaluated, Initial, Task, Trained, Work
from simulator.memory_files import InMemory
from tests.integration.linear import some_settings

__all__ = ["Federation", "Quadratics"]

RUN = "test"


@dataclass(frozen=True)
class Quadratics:
    """Device k minimises ½ (w - m_k)ᵀ H_k (w - m_k), in full-batch steps.

    Args:
        hessians: (n, d, d), symmetric and positive.
        minima: (n, d).
        n_steps: of each device; None: as the work says.
    """

    hessians: NDArray[np.float64]
    minima: NDArray[np.float64]
    n_steps: tuple[int, ...] | None = None

    @classmethod
    def drawn(cls, seed: int, n: int = 4, d: int = 3) -> "Quadratics":
        """Return unlike devices: curvatures from 0.3 to 3, minima some units apart."""
        rng = np.random.default_rng(seed)
        bases = np.linalg.qr(rng.normal(size=(n, d, d)))[0]
        return cls(bases * rng.uniform(0.3, 3.0, (n, 1, d)) @ bases.transpose(0, 2, 1), 2 * rng.normal(size=(n, d)))

    @property
    def optimum(self) -> NDArray[np.float64]:
        """Where the mean of all objectives is least: (Σ H_k)^-1 Σ H_k m_k."""
        return self.point_of(self.hessians)

    def point_of(self, pulls: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where Σ P_k (m_k - w) = 0."""
        found: NDArray[np.float64] = np.linalg.solve(pulls.sum(0), np.einsum("kij,kj->i", pulls, self.minima))
        return found

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return Initial({"w": np.ones(self.minima.shape[1])})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        assert client.partition is not None
        k = client.partition[0]
        n_steps = work.max_steps or 1 if self.n_steps is None else self.n_steps[k]
        w = parameters["w"]
        for _ in range(n_steps):
            gradient = self.hessians[k] @ (w - self.minima[k])
            gradient = gradient + work.correction.get("w", 0.0) + work.mu * (w - parameters["w"])
            w = w - work.learning_rate * gradient
        return Trained(parameters={"w": w}, num_examples=10, n_steps=n_steps)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        return None


class Federation:
    """One run.

    Args:
        settings: of it.
        task: on every device.
        n_devices: how many there are.
        aggregation: with the first model.
    """

    def __init__(self, settings: Settings, task: Task, n_devices: int, aggregation: Aggregation) -> None:
        self.settings, self.task, self.n_devices, self.aggregation = settings, task, n_devices, aggregation
        self.books = DeviceStates(are_kept=settings.training.algorithm in STATEFUL)
        self.kept = [AlgorithmStates(InMemory(f"d{k}")) for k in range(n_devices)]
        self.untold: list[list[str]] = [[] for _ in range(n_devices)]
        """Leases of which a device has heard nothing: their reports are still in its outbox."""
        self.pending: list[tuple[AcceptRecord, int]] = []
        self._n_leases = 0

    @classmethod
    async def begun(cls, folder: Path, task: Task, n_devices: int, **tables: Any) -> "Federation":
        """Begin a run; `tables` are of the settings."""
        tables = {"evaluation": {"central_every": 0}, "server": {"weighting": "uniform"}, **tables}
        settings = some_settings(folder, **{**tables, "training": {"epochs": None, **tables["training"]}})
        state = await first_state(settings, TaskEvaluator(task, at_once))
        files, store = PartFiles(folder / "updates"), ModelStore(folder / "versions")
        return cls(settings, task, n_devices, Aggregation(settings, state, files, store, at_once))

    @property
    def weights(self) -> Vector:
        """The committed model."""
        return self.aggregation.state.model[0]

    @property
    def auxiliary(self) -> Vector:
        """What travels behind it."""
        state = self.aggregation.state
        return state.parameters[state.spec.own.n_params :]

    def order(self, k: int) -> Assignment:
        """Lease work to a device, as the aggregator would."""
        self._n_leases += 1
        training, state = self.settings.training, self.aggregation.state
        work = WorkOrder(
            seed=1,
            algorithm=training.algorithm,
            max_steps=training.max_steps,
            learning_rate=built_in_rates(self.settings).client(state.version),
            mu=training.mu or 0.0,
            alpha=training.alpha,
            state_of=self.books.of(f"d{k}"),
        )
        return Assignment(
            epoch=1,
            lease=f"{self._n_leases:032x}",
            run=RUN,
            round=state.version + 1,
            kind=Kind.TRAIN,
            model=ModelRef(version=state.version, digest="0" * 64, index_bytes=1, chunk_bytes=4096),
            work=work,
            codec=training.codec,
            codec_seed=self._n_leases,
            max_bytes=10**6,
            seconds_left=60.0,
            status_every_s=10.0,
        )

    def train(self, k: int, order: Assignment) -> Finished:
        """Let a device work, and keep what it has to."""
        state = self.aggregation.state

        def received() -> tuple[ParameterSpec, Vector]:
            return state.spec, state.parameters

        def kept(lease: str | None) -> Arrays:
            return self.kept[k].of(RUN, lease)

        finished = carry_out(
            order,
            task=self.task,
            client=Client(id=ClientId(f"d{k}"), partition=(k, self.n_devices)),
            received=received,
            spec=state.spec.own,
            state=dict,
            gate=Gate(lambda: 0.0, None),
            kept=kept,
        )
        assert finished is not None
        assert order.work is not None
        if finished.kept is not None:
            self.kept[k].stage(order.lease, RUN, finished.kept, parent=order.work.state_of)
        return finished

    def accept(self, k: int, order: Assignment, finished: Finished) -> None:
        """Let an update count for the next version."""
        report = finished.report
        assert report.outcome is Reported.TRAINED, report.error
        assert order.work is not None
        self.books.accepted(f"d{k}", order.lease)
        record = AcceptRecord(
            seq=len(self.pending) + 1,
            lease=order.lease,
            device=f"d{k}",
            round_id=order.round,
            base_version=order.model.version,
            into=order.model.version + 1,
            weight=1.0,
            num_examples=report.num_examples or 1,
            n_steps=report.n_steps,
            effective_steps=effective_steps(report.n_steps, learning_rate=order.work.learning_rate, mu=order.work.mu),
            clip_scale=1.0,
            codec=order.codec,
            size=len(finished.payload),
            sha256=hashlib.sha256(finished.payload).hexdigest(),
            begins=self.books.begins(order.work.model_dump_json()),
            data=finished.payload,
        )
        self.pending.append((record, k))

    def tell(self, k: int, lease: str) -> None:
        """Let a device hear that its update counts."""
        self.kept[k].accept(lease, self.untold[k])

    def forget(self, k: int) -> None:
        """Delete a device's folder."""
        self.kept[k] = AlgorithmStates(InMemory(f"d{k}"))

    def void(self) -> None:
        """Throw away what was accepted for the next version."""
        for record, _ in self.pending:
            self.books.voided(record.device)
        self.pending = []

    async def commit(self) -> None:
        """Make the next version of what was accepted."""
        into = self.aggregation.state.version + 1
        self.aggregation.state = await self.aggregation.make(into, into, [record for record, _ in self.pending])
        self.books.committed()
        self.pending = []

    async def round(self, devices: Sequence[int] | None = None) -> None:
        """Let devices work and count, and commit; None: all of them."""
        for k in range(self.n_devices) if devices is None else devices:
            order = self.order(k)
            self.accept(k, order, self.train(k, order))
            self.tell(k, order.lease)
        await self.commit()
