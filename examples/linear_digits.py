"""Handwritten digits with a linear model in NumPy: fits in a fraction of a millisecond, for large simulated fleets.

Softmax regression on scikit-learn's 1,797 images of 8 x 8 pixels; a fifth is the aggregator's test set. Three tasks:

* `task`: the rest is dealt to all devices alike. A fleet of more devices than images deals them again and again, so
  that each device has at least `FEWEST`.
* `stragglers`: the last tenth of the devices, by partition, hold all images of the digits 6 and 7, the others all the
  rest. Whoever never waits for that tenth never learns these two. Metrics are the accuracy, the recall of the worse of
  the two, and `margin`: how far the worse of (accuracy − 0.90, recall − 0.85) is above 0.

* `wide`: as `task`, with random features besides the pixels, so that the model has 200 kB and links matter (Rahimi and
  Recht, "Random Features for Large-Scale Kernel Machines", NIPS 2007, with rectified ones).

With `training.options.flip_labels`, as a rehearsed attacker has it, a device learns 9 − y in place of y.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from shared.errors import ConfigError
from shared.task import Arrays, Client, Evaluated, Initial, Metric, Ratio, Trained, Work

__all__ = ["RARE", "LinearDigits", "stragglers", "task", "wide"]

N_FEATURES, N_LABELS = 65, 10
"""64 pixels and a one for the offset."""
RARE = (6, 7)
ACCURACY, RECALL = 0.90, 0.85
FEWEST = 14
"""Images that each device has at least."""
SPLIT_SEED = 2024

Examples = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Inputs (n, 65) in [-1, 3], labels (n,) in 0..9."""


@functools.cache
def all_digits() -> tuple[Examples, Examples]:
    """Return (train, test): always the same fifth is the test set."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    inputs = np.column_stack([images / 4 - 1, np.ones(len(images))]).astype(np.float32)[order]
    labels = labels[order].astype(np.int64)
    n_test = len(labels) // 5
    return (inputs[n_test:], labels[n_test:]), (inputs[:n_test], labels[:n_test])


@functools.cache
def dealt(n: int, *, has_stragglers: bool) -> list[NDArray[np.int64]]:
    """Return the images of each of `n` devices, as indexes: a function of its arguments alone."""
    labels = all_digits()[0][1]
    rng = np.random.default_rng([SPLIT_SEED, n])
    if not has_stragglers:
        return _deal(np.arange(len(labels)), n, rng)
    is_rare, n_slow = np.isin(labels, RARE), max(1, n // 10)
    if n <= n_slow:
        raise ConfigError(f"{n} devices are too few to keep two digits to a tenth of them")
    return _deal(np.flatnonzero(~is_rare), n - n_slow, rng) + _deal(np.flatnonzero(is_rare), n_slow, rng)


def _deal(images: NDArray[np.int64], n: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    n_rounds = max(1, -(-FEWEST * n // len(images)))  # decks of the same images
    deck = np.concatenate([rng.permutation(images) for _ in range(n_rounds)])
    return np.array_split(deck, n)


@functools.cache
def projections(n: int) -> NDArray[np.float32]:
    """Return (65, n) float32: the directions of so many random features."""
    return np.random.default_rng([SPLIT_SEED, n]).normal(size=(N_FEATURES, n)).astype(np.float32)


@dataclass(frozen=True)
class LinearDigits:
    """Softmax regression. See `Task`.

    Args:
        has_stragglers: whether the last tenth of the devices alone has the two rare digits.
        n_random: features besides the pixels.
    """

    has_stragglers: bool = False
    n_random: int = 0

    def initial_parameters(self, seed: int) -> Initial:
        """Start at zero: every label is as likely as any other."""
        return Initial({"weights": np.zeros((N_FEATURES + self.n_random, N_LABELS), np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Take steps of SGD on the mean cross-entropy, corrected; "fedsgd" returns the gradient over all images."""
        inputs, labels = self._examples(client)
        if work.options.get("flip_labels"):
            labels = N_LABELS - 1 - labels
        received = weights = parameters["weights"].astype(np.float32)
        correction: NDArray[np.float32] = work.correction.get("weights", np.zeros_like(weights))
        n, size = len(labels), min(work.batch_size or len(labels), len(labels))
        n_steps = work.max_steps or (work.epochs or 1) * -(-n // size)
        if work.algorithm == "fedsgd":
            gradient, _ = _gradient(weights, inputs, labels)
            return Trained(gradient={"weights": gradient}, num_examples=n, n_steps=1)
        rng, step, total, n_seen = np.random.default_rng(work.seed), 0, 0.0, 0
        while step < n_steps:
            order = rng.permutation(n)
            for start in range(0, n, size):
                batch = order[start : start + size]
                gradient, loss = _gradient(weights, inputs[batch], labels[batch])
                gradient = gradient + correction + np.float32(work.mu) * (weights - received)
                weights = weights - work.learning_rate * gradient
                step, total, n_seen = step + 1, total + loss * len(batch), n_seen + len(batch)
                if not work.progress(step, n_steps) or step == n_steps:
                    metrics: dict[str, Metric] = {"loss": Ratio(total, n_seen)}
                    if work.algorithm == "qfedavg":
                        metrics["initial_loss"] = _gradient(parameters["weights"], inputs, labels)[1]
                    return Trained(parameters={"weights": weights}, num_examples=n, n_steps=step, metrics=metrics)
        raise AssertionError("no step was to be taken")

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """Return accuracy and loss; centrally, where some devices are stragglers, also what they alone can teach."""
        inputs, labels = self._widened(all_digits()[1]) if client is None else self._examples(client)
        scores = inputs @ parameters["weights"]
        guesses = scores.argmax(axis=1)
        right = guesses == labels
        metrics: dict[str, Metric] = {
            "accuracy": Ratio(float(right.sum()), len(labels)),
            "loss": Ratio(float(-_log_likelihood(scores, labels).sum()), len(labels)),
        }
        if self.has_stragglers and client is None:
            recall = min(float(right[labels == digit].mean()) for digit in RARE)
            metrics |= {"recall": recall, "margin": min(float(right.mean()) - ACCURACY, recall - RECALL)}
        return Evaluated(num_examples=len(labels), metrics=metrics)

    def _examples(self, client: Client) -> Examples:
        part, n = client.partition or (sum(client.id.encode()) % 100, 100)
        inputs, labels = all_digits()[0]
        mine = dealt(n, has_stragglers=self.has_stragglers)[part]
        return self._widened((inputs[mine], labels[mine]))

    def _widened(self, examples: Examples) -> Examples:
        if not self.n_random:
            return examples
        inputs, labels = examples
        more = np.maximum(inputs @ projections(self.n_random), 0) / np.float32(self.n_random**0.5)
        return np.concatenate([inputs, more], axis=1), labels


def _log_likelihood(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    shifted = scores - scores.max(axis=1, keepdims=True)  # (n, 10)
    found: NDArray[np.float32] = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(axis=1))
    return found


def _gradient(
    weights: NDArray[np.float32], inputs: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], float]:
    """Return the gradient (65, 10) of the mean cross-entropy, and the latter."""
    scores = inputs @ weights  # (n, 10)
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances = shifted / shifted.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -float(np.log(np.maximum(chances[rows, labels], 1e-30)).mean())
    chances[rows, labels] -= 1
    gradient: NDArray[np.float32] = inputs.T @ chances / np.float32(len(labels))
    return gradient, loss


task = LinearDigits()
stragglers = LinearDigits(has_stragglers=True)
wide = LinearDigits(n_random=4_935)
