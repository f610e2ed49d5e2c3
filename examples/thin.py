"""A task of one megabyte that is hardly trained: for rehearsals of thin links, where the bytes are what takes the time.

python -m simulator rehearse examples/thin.toml
"""

import numpy as np

from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work

__all__ = ["task"]

N_PARAMS = 2**18  # float32: 1 MiB down as the model, 1 MiB up as the update


class Megabyte:
    """Every parameter is to become 1; each round goes half of the way."""

    def initial_parameters(self, seed: int) -> Initial:
        """Small random numbers, so that no chunk is like another."""
        noise = np.random.default_rng(seed).normal(scale=0.01, size=N_PARAMS)
        return Initial({"weights": noise.astype(np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """One step."""
        work.progress(1, 1)
        return Trained(parameters={"weights": (parameters["weights"] + 1) / 2}, num_examples=1, n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """How far from 1 it is."""
        return Evaluated(num_examples=1, metrics={"loss": float(np.mean((parameters["weights"] - 1) ** 2))})


task = Megabyte()
