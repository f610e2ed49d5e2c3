"""Handwritten digits that are dealt unevenly, with a small network in NumPy: what device algorithms are compared on.

scikit-learn's 1,797 images of 8 x 8 pixels; always the same fifth is the test set, the rest is dealt to the devices as
the seed says. Fits in a millisecond, and adds `Work.correction` and `Work.mu` to its gradients, as every algorithm of
the devices wants it.

Not here: which fleets and algorithms are compared (`cases/`).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from examples.linear_digits import N_LABELS, Examples, all_digits
from shared.errors import ConfigError
from shared.task import Arrays, Client, Evaluated, Initial, Metric, Ratio, Trained, Work

__all__ = ["Deal", "SkewedDigits"]

Deal = Literal["shards", "digits", "dirichlet", "alike"]
Gradients = dict[str, NDArray[np.float32]]

SHARDS_PER_DEVICE = 2


@functools.lru_cache(maxsize=64)
def dealt(n: int, deal: Deal, concentration: float, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Return the images of each of `n` devices, as indexes of the training set: each image once.

    Args:
        n: devices.
        deal: "shards": sorted by label, cut into 2n pieces, two to each device (McMahan et al., AISTATS 2017, arXiv
            1602.05629, section 3); "digits": sorted by label, the labels in an order of the seed's, and cut into n
            pieces, so that ten devices have a digit each, about; "dirichlet": each label by shares from a Dirichlet
            distribution (Hsu et al., arXiv 1909.06335), and one image more to each device; "alike": at random.
        concentration: of the Dirichlet; smaller is more uneven.
        seed: of the deal.

    Raises:
        ConfigError: there are more devices than images.
    """
    labels = all_digits()[0][1]
    if n * SHARDS_PER_DEVICE > len(labels):
        raise ConfigError(f"{len(labels)} digits cannot be dealt to {n} devices")
    rng = np.random.default_rng([seed, n])
    order = rng.permutation(len(labels))
    if n == 1 or deal == "alike":
        return tuple(np.array_split(order, n))
    if deal == "shards":
        shards = np.array_split(order[np.argsort(labels[order], kind="stable")], SHARDS_PER_DEVICE * n)
        turns = rng.permutation(len(shards)).reshape(n, SHARDS_PER_DEVICE)
        return tuple(np.concatenate([shards[shard] for shard in mine]) for mine in turns)
    if deal == "digits":
        ranks = rng.permutation(N_LABELS)[labels[order]]
        return tuple(np.array_split(order[np.argsort(ranks, kind="stable")], n))
    parts: list[list[NDArray[np.int64]]] = [[order[part : part + 1]] for part in range(n)]
    for label in range(N_LABELS):
        rest = order[n:][labels[order[n:]] == label]
        cuts = (np.cumsum(rng.dirichlet(np.full(n, concentration)))[:-1] * len(rest)).astype(np.int64)
        for part, more in zip(parts, np.split(rest, cuts), strict=True):
            part.append(more)
    return tuple(np.concatenate(part) for part in parts)


@dataclass(frozen=True)
class SkewedDigits:
    """Softmax regression, or a perceptron with one hidden layer. See `Task`.

    Args:
        seed: of the deal to the devices; the run's own seed is another.
        deal: how the images are dealt, see `dealt`.
        concentration: of the Dirichlet.
        hidden: units of the hidden layer; 0: none, and the loss is convex.
        decay: half of it times the squared parameters is added to the loss, which makes it strongly convex.
    """

    seed: int
    deal: Deal = "shards"
    concentration: float = 0.1
    hidden: int = 64
    decay: float = 0.0

    def initial_parameters(self, seed: int) -> Initial:
        """Start at zero without a hidden layer; otherwise uniform in ±1/√inputs, as torch has it."""
        if not self.hidden:
            return Initial({"out": np.zeros((65, N_LABELS), np.float32)})
        rng, wide = np.random.default_rng(seed), self.hidden
        first = rng.uniform(-1, 1, (65, wide)) / np.sqrt(64)
        out = rng.uniform(-1, 1, (wide + 1, N_LABELS)) / np.sqrt(wide)
        return Initial({"first": first.astype(np.float32), "out": out.astype(np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Take steps of SGD on the mean cross-entropy; "fedsgd" returns the gradient over all images."""
        inputs, labels = self.examples(client)
        if work.options.get("flip_labels"):  # of a rehearsed attacker
            labels = N_LABELS - 1 - labels
        weights = {name: array.astype(np.float32) for name, array in parameters.items()}
        n, size = len(labels), min(work.batch_size or len(labels), len(labels))
        if work.algorithm == "fedsgd":
            gradients, loss = self._gradients(weights, inputs, labels)
            work.progress(1, 1)
            return Trained(gradient=gradients, num_examples=n, n_steps=1, metrics={"loss": Ratio(loss * n, n)})
        n_steps = work.max_steps or (work.epochs or 1) * -(-n // size)
        rng, step, total, n_seen = np.random.default_rng(work.seed), 0, 0.0, 0
        while step < n_steps:
            order = rng.permutation(n)
            for start in range(0, n, size):
                batch = order[start : start + size]
                gradients, loss = self._gradients(weights, inputs[batch], labels[batch])
                for name, gradient in gradients.items():
                    if name in work.correction:
                        gradient = gradient + work.correction[name]
                    if work.mu:
                        gradient = gradient + work.mu * (weights[name] - parameters[name])
                    weights[name] = weights[name] - np.float32(work.learning_rate) * gradient
                step, total, n_seen = step + 1, total + loss * len(batch), n_seen + len(batch)
                if not work.progress(step, n_steps) or step == n_steps:
                    n_steps = step
                    break
        metrics: dict[str, Metric] = {"loss": Ratio(total, n_seen)}
        return Trained(parameters=weights, num_examples=n, n_steps=step, metrics=metrics)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """Return accuracy and loss; centrally also `objective`: the mean loss over all devices' images, decay included.

        On a device the images are those that it trains on.
        """
        if client is not None:
            inputs, labels = self.examples(client)
            return Evaluated(num_examples=len(labels), metrics=self._metrics(parameters, inputs, labels))
        (inputs, labels), test = all_digits()
        objective = self._gradients(parameters, inputs, labels)[1]
        return Evaluated(
            num_examples=len(test[1]), metrics={**self._metrics(parameters, *test), "objective": objective}
        )

    def examples(self, client: Client) -> Examples:
        """Return what a device has."""
        part, n = client.partition or (0, 1)
        inputs, labels = all_digits()[0]
        mine = dealt(n, self.deal, self.concentration, self.seed)[part]
        return inputs[mine], labels[mine]

    def _metrics(self, weights: Arrays, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, Metric]:
        chances = _softmax(self._forward(weights, inputs)[1])
        n, right = len(labels), int((chances.argmax(axis=1) == labels).sum())
        loss = -float(np.log(np.maximum(chances[np.arange(n), labels], 1e-30)).sum())
        return {"accuracy": Ratio(right, n), "loss": Ratio(loss, n)}

    def _forward(self, weights: Arrays, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what the last layer sees (n, hidden + 1), and the scores (n, 10)."""
        if not self.hidden:
            return inputs, inputs @ weights["out"]
        seen = np.ones((len(inputs), self.hidden + 1), np.float32)
        np.maximum(inputs @ weights["first"], 0, out=seen[:, :-1])
        return seen, seen @ weights["out"]

    def _gradients(
        self, weights: Arrays, inputs: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> tuple[Gradients, float]:
        """Return the gradient of the mean loss, and the latter; decay included in both."""
        seen, scores = self._forward(weights, inputs)
        errors, rows = _softmax(scores), np.arange(len(labels))
        loss = -float(np.log(np.maximum(errors[rows, labels], 1e-30)).mean())
        errors[rows, labels] -= 1
        errors /= np.float32(len(labels))
        gradients: Gradients = {"out": seen.T @ errors}
        if self.hidden:
            back = (errors @ weights["out"][:-1].T) * (seen[:, :-1] > 0)  # (n, hidden)
            gradients["first"] = inputs.T @ back
        if self.decay:
            loss += self.decay / 2 * _squares(weights)
            gradients = {
                name: array + np.float32(self.decay) * weights[name].astype(np.float32)
                for name, array in gradients.items()
            }
        return gradients, loss


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    chances: NDArray[np.float32] = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    return chances


def _squares(weights: Mapping[str, NDArray[np.float32]]) -> float:
    return float(sum(np.vdot(array, array) for array in weights.values()))
