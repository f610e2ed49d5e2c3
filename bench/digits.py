"""The digits of scikit-learn with a linear model: softmax regression in NumPy, 650 parameters.

Each device has twenty of the 1,437 images that are for training, drawn by its number.
"""

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work

__all__ = ["Digits"]

N_CLASSES: Final = 10
N_PIXELS: Final = 64
N_TEST: Final = 360
N_EXAMPLES: Final = 20

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@cache
def _data() -> tuple[Images, Labels]:
    """Return all images, (1797, 64) float32 in [0, 1], and their labels, (1797,), in an order of our own."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)


class Digits:
    """See `shared.task.Task`."""

    def initial_parameters(self, seed: int) -> Initial:
        return Initial(
            {"weights": np.zeros((N_PIXELS, N_CLASSES), np.float32), "biases": np.zeros(N_CLASSES, np.float32)}
        )

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        images, labels = _examples(client)
        weights, biases = parameters["weights"].copy(), parameters["biases"].copy()
        rng = np.random.default_rng(work.seed)
        batch = work.batch_size or N_EXAMPLES
        starts = range(0, N_EXAMPLES, batch)
        n_steps = (work.epochs or 1) * len(starts)
        done = 0
        for _ in range(work.epochs or 1):
            order = rng.permutation(N_EXAMPLES)
            for start in starts:
                chosen = order[start : start + batch]
                x, y = images[chosen], labels[chosen]
                error = _softmax(x @ weights + biases)  # (batch, 10)
                error[np.arange(len(y)), y] -= 1
                weights -= work.learning_rate / len(y) * (x.T @ error)
                biases -= work.learning_rate / len(y) * error.sum(axis=0)
                done += 1
                if not work.progress(done, n_steps):
                    break
        return Trained(parameters={"weights": weights, "biases": biases}, num_examples=N_EXAMPLES, n_steps=done)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        images, labels = _data()[0][-N_TEST:], _data()[1][-N_TEST:]
        guesses = (images @ parameters["weights"] + parameters["biases"]).argmax(axis=1)
        right = Ratio(float((guesses == labels).sum()), N_TEST)
        return Evaluated(num_examples=N_TEST, metrics={"accuracy": right})


def _examples(client: Client) -> tuple[Images, Labels]:
    images, labels = _data()
    number = client.partition[0] if client.partition is not None else 0
    chosen = np.random.default_rng(number).choice(len(labels) - N_TEST, N_EXAMPLES, replace=False)
    return images[chosen], labels[chosen]


def _softmax(logits: NDArray[Any]) -> Images:
    powers: Images = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers
