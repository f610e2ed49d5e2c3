"""The smallest task without PyTorch: a line through points that each device has of its own.

Three methods, and no class to inherit from. It runs where only NumPy is installed.
"""

import numpy as np

from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work


def points(client: Client | None) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, 2), the second column ones, and outputs (n,): of a client, or of the aggregator (None)."""
    if client is not None and client.data is not None:  # --data points.csv: x,y in each line
        x, y = np.loadtxt(client.data, delimiter=",", unpack=True)
    else:
        random = np.random.default_rng(list(client.id.encode()) if client else 0)
        x = random.random(50)
        y = 3 * x - 1 + random.normal(scale=0.1, size=50)
    return np.column_stack([x, np.ones_like(x)]), y


class LineTask:
    """y = slope x + offset, by least squares. Keeps nothing in itself."""

    def initial_parameters(self, seed: int) -> Initial:
        """Start at a random line."""
        return Initial({"line": np.random.default_rng(seed).normal(size=2)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Take full-batch steps; for "fedsgd" return the gradient instead. One line does all other algorithms."""
        x, y = points(client)
        line = parameters["line"]
        n_steps = work.max_steps or work.epochs or 1
        for step in range(1, n_steps + 1):
            gradient = 2 * x.T @ (x @ line - y) / len(x)
            if work.algorithm == "fedsgd":
                return Trained(gradient={"line": gradient}, num_examples=len(x), n_steps=1)
            gradient = gradient + work.correction.get("line", 0.0) + work.mu * (line - parameters["line"])
            line = line - work.learning_rate * gradient
            if not work.progress(step, n_steps):  # the time is up
                break
        return Trained(parameters={"line": line}, num_examples=len(x), n_steps=step)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated:
        """Sum the squared errors, so that they add up over devices."""
        x, y = points(client)
        error = x @ parameters["line"] - y
        return Evaluated(num_examples=len(x), metrics={"loss": Ratio(float(error @ error), len(x))})


task = LineTask()
