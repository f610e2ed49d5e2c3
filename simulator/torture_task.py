"""The task of the torture: each update is a number that nobody else has, written out as whole float32 values.

A sum of such updates is exact in float64 in any order, so that one update lost, or counted twice, changes the model by
an amount that no rounding hides. Whoever knows the number knows every byte of the update (`vector_of`), its weight and
its sha-256: a device only has to write the number down, and the checker can make the model again without its bytes.

Not here: the writing down (`torture_notes.py`), the making again (`torture_model.py`).
"""

import hashlib
from random import Random
from typing import Protocol

import numpy as np

from shared.codecs import codec_named
from shared.parameters import Vector
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work

__all__ = ["CODEC", "CountingTask", "Produced", "sha256_of", "task", "vector_of", "weight_of"]

CODEC = "float32"
LARGEST = 2**16
"""Values are whole and below this: 2^37 of them add up exactly in a float64, times the largest weight."""
WEIGHTS = 8
NUMBER_BITS = 60


class Produced(Protocol):
    """Takes down what a device has trained, before anybody else hears of it."""

    def __call__(self, device: str, *, round_id: int, number: int, sha256: str) -> None:
        """Return once it is written."""


def vector_of(number: int, n_params: int) -> Vector:
    """Return the update that a number stands for: (n_params,) float32, whole values."""
    values = np.random.default_rng(number).integers(-LARGEST, LARGEST, n_params, endpoint=True)
    return values.astype(np.float32)


def weight_of(number: int) -> int:
    """Return the examples that the update of a number claims to come from, 1 to 8."""
    return 1 + number % WEIGHTS


def sha256_of(number: int, n_params: int) -> str:
    """Return the sha-256 of the encoded update of a number."""
    return hashlib.sha256(codec_named(CODEC).encode(vector_of(number, n_params), 0)).hexdigest()


class CountingTask:
    """Yields numbered updates instead of learning.

    Args:
        n_params: of the model.
        rng: draws the numbers; 60 bits, so that no two devices ever draw the same.
        produced: takes each update down.
    """

    def __init__(self, n_params: int, rng: Random | None = None, produced: Produced | None = None) -> None:
        self._n_params, self._rng, self._produced = n_params, rng or Random(), produced

    def initial_parameters(self, seed: int) -> Initial:
        """Start at zero."""
        return Initial({"sum": np.zeros(self._n_params, dtype=np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Return a new number as a gradient: what a gradient says travels as it is, minus its sign."""
        number = self._rng.getrandbits(NUMBER_BITS)
        vector = vector_of(number, self._n_params)
        if self._produced is not None:
            sha256 = sha256_of(number, self._n_params)
            self._produced(client.id, round_id=work.round_id, number=number, sha256=sha256)
        return Trained(gradient={"sum": -vector}, num_examples=weight_of(number), n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """There is nothing to evaluate."""
        return None


task = CountingTask(16)
