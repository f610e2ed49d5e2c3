"""What the fleets of crash schedules learn: nothing, but every bit of it is known.

An update is drawn from the seed in its work order, so that a device that trains again sends the same bits. The task
remembers each update that it made by the sha-256 of its encoding: that is what the journal is held against.
"""

import numpy as np

from shared.chunking import sha256_hex
from shared.codecs import Codec
from shared.parameters import ParameterSpec, delta_of
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work

__all__ = ["DrawnTask"]


class DrawnTask:
    """See `Task`.

    Args:
        n_params: of the model.
        codec: with which devices encode.
    """

    def __init__(self, n_params: int, codec: Codec) -> None:
        self._n_params, self._codec = n_params, codec
        self._spec = ParameterSpec.of(self.initial_parameters(0))
        self.made: dict[str, bytes] = {}
        """Encoded updates by their sha-256."""

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return Initial({"weights": np.random.default_rng(seed).standard_normal(self._n_params).astype(np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        rng = np.random.default_rng([work.seed, *client.id.encode()])
        step = rng.standard_normal(self._n_params).astype(np.float32)
        work.progress(1, 1)
        trained = Trained(
            parameters={"weights": parameters["weights"] + step},
            num_examples=int(rng.integers(1, 100)),
            n_steps=int(rng.integers(1, 100)),
        )
        payload = self._codec.encode(delta_of(trained, self._spec.flatten(parameters), self._spec), 0)
        self.made[sha256_hex(payload)] = payload
        return trained

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`."""
        return Evaluated(num_examples=1, metrics={"mean": float(parameters["weights"].mean())})
