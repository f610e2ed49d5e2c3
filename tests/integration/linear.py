"""A task for whole rounds in virtual time: linear regression in NumPy, a few kilobytes, microseconds a step."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.config import Settings
from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work

__all__ = ["LinearTask", "some_settings"]

N_FEATURES = 8
N_EXAMPLES = 20


@functools.cache
def examples(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (inputs, outputs) of one device, or of the server: the same truth for all, other inputs for each."""
    truth = np.random.default_rng(7).normal(size=N_FEATURES)
    inputs = np.random.default_rng(list(name.encode())).normal(size=(N_EXAMPLES, N_FEATURES))
    return inputs, inputs @ truth


@dataclass(frozen=True)
class LinearTask:
    """Least squares; converges in a few rounds.

    Args:
        padding: parameters that nobody learns, to make the update as large as a test wants it.
    """

    padding: int = 0

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        weights = np.random.default_rng(seed).normal(size=N_FEATURES).astype(np.float32)
        padding = {"padding": np.zeros(self.padding, np.float32)} if self.padding else {}
        return Initial({"weights": weights, **padding})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`; the seed decides in which order examples are seen."""
        inputs, outputs = examples(client.id)
        weights = parameters["weights"].astype(np.float64)
        order = np.random.default_rng(work.seed).permutation(N_EXAMPLES)
        n_steps = (work.epochs or 1) * N_EXAMPLES
        for step in range(n_steps):
            i = order[step % N_EXAMPLES]
            weights -= work.learning_rate * (inputs[i] @ weights - outputs[i]) * inputs[i]
            if not work.progress(step + 1, n_steps):
                break
        learned = {**parameters, "weights": weights.astype(np.float32)}
        return Trained(parameters=learned, num_examples=N_EXAMPLES, n_steps=n_steps)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """See `Task`; right is what is off by less than a tenth."""
        inputs, outputs = examples("server" if client is None else client.id)
        error = inputs @ parameters["weights"].astype(np.float64) - outputs
        right = Ratio(float((np.abs(error) < 0.1).sum()), N_EXAMPLES)
        return Evaluated(num_examples=N_EXAMPLES, metrics={"accuracy": right, "loss": float((error**2).mean())})


def some_settings(folder: Path, **tables: dict[str, Any]) -> Settings:
    """Return settings of a short run; each keyword is a table whose keys go over ours."""
    ours: dict[str, dict[str, Any]] = {
        "round": {"report_goal": 4, "over_selection": 1.5, "quorum": 0.75, "window_s": {"min": 20, "max": 60}},
        "training": {"epochs": 1, "learning_rate": 0.02, "codec": "float32"},
        "stop": {"rounds": 3},
        "transfer": {"chunk_bytes": 4096, "inline_bytes": 1024, "check_in_interval_s": 10, "reconnect_window_s": 2},
        "output": {"folder": folder / "runs"},
    }
    together = {name: {**ours.get(name, {}), **tables.get(name, {})} for name in {**ours, **tables}}
    return Settings.model_validate({"task": "tests.integration.linear:LinearTask", "run": "test", **together})
