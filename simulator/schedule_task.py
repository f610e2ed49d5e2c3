"""What the fleets of crash schedules learn: nothing, but every bit of it is known.

An update is drawn from the seed in its work order, so that a device that trains again sends the same bits. The task
remembers each update that it made: that is what the journal is held against.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import Arrays, Client, Evaluated, Initial, Work
from shared.task import Trained as Result

__all__ = ["DrawnTask", "Trained"]


@dataclass(frozen=True, slots=True)
class Trained:
    """One training: what it added to the model, and what its gradients were to be corrected by.

    Args:
        delta: (n_params,) float32.
        correction: (n_params,) float32; zeros when there was none.
        mu: of the pull.
    """

    delta: Vector
    correction: Vector
    mu: float


class DrawnTask:
    """See `Task`.

    Args:
        n_params: of the model.
    """

    def __init__(self, n_params: int) -> None:
        self.n_params = n_params
        self._spec = ParameterSpec.of(self.initial_parameters(0))
        self.trained: defaultdict[tuple[str, int], list[Trained]] = defaultdict(list)
        """Each training, by device and seed."""

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return Initial({"weights": np.random.default_rng(seed).standard_normal(self.n_params).astype(np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Result:
        """See `Task`."""
        rng = np.random.default_rng([work.seed, *client.id.encode()])
        step = rng.standard_normal(self.n_params).astype(np.float32)
        work.progress(1, 1)
        num_examples, n_steps = int(rng.integers(1, 100)), int(rng.integers(1, 100))
        trained = Result(
            parameters={"weights": parameters["weights"] + step},
            num_examples=num_examples,
            n_steps=n_steps,
            metrics={"initial_loss": float(rng.uniform(0, 3))} if work.algorithm == "qfedavg" else {},
        )
        delta = delta_of(trained, self._spec.flatten(parameters), self._spec)
        correction = self._spec.flatten({"weights": np.zeros(self.n_params), **work.correction})
        self.trained[client.id, work.seed].append(Trained(delta, correction, work.mu))
        return trained

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`."""
        return Evaluated(num_examples=1, metrics={"mean": float(parameters["weights"].mean())})
