"""The work of the benchmark as a task of ours."""

import os

from bench.work import MODEL_BYTES, NAME, add_one, first_model
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work

__all__ = ["AddOne", "task"]


class AddOne:
    """Adds one to every parameter.

    Args:
        model_bytes: of the model.
    """

    def __init__(self, model_bytes: int) -> None:
        self._model_bytes = model_bytes

    def initial_parameters(self, seed: int) -> Initial:
        return Initial({NAME: first_model(self._model_bytes)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        return Trained(parameters={NAME: add_one(parameters[NAME])}, num_examples=1, n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        return None


def task() -> AddOne:
    """Return the task, of the size that the environment says."""
    return AddOne(int(os.environ[MODEL_BYTES]))
