"""The smallest task without PyTorch: a line through points that each device has of its own.

Three methods, and no class to inherit from. It runs where only NumPy is installed.
"""

import numpy as np

from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work


class LineTask:
    """y = slope x + offset, by least squares. Keeps nothing in itself."""

    def initial_parameters(self, seed: int) -> Initial:
        """Start at a random line."""
        slope, offset = np.random.default_rng(seed).normal(size=2)
        return Initial({"slope": np.array(slope), "offset": np.array(offset)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Take `max_steps` (or `epochs`) full-batch steps; for "fedsgd" return the gradient instead."""
        x, y = self._points(client)
        slope, offset = float(parameters["slope"]), float(parameters["offset"])
        n_steps = work.max_steps or work.epochs or 1
        for step in range(1, n_steps + 1):
            error = slope * x + offset - y
            gradient = {"slope": np.array((2 * error * x).mean()), "offset": np.array((2 * error).mean())}
            goes_on = work.progress(step, n_steps, loss=float((error**2).mean()))
            if work.algorithm == "fedsgd":
                return Trained(gradient=gradient, num_examples=len(x), n_steps=1)
            slope -= work.learning_rate * float(gradient["slope"])
            offset -= work.learning_rate * float(gradient["offset"])
            if not goes_on:
                break
        trained = {"slope": np.array(slope), "offset": np.array(offset)}
        return Trained(parameters=trained, num_examples=len(x), n_steps=step)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Sum the squared errors, so that they add up over devices."""
        x, y = self._points(client)
        error = parameters["slope"] * x + parameters["offset"] - y
        return Evaluated(num_examples=len(x), metrics={"loss": Ratio(float((error**2).sum()), len(x))})

    def _points(self, client: Client | None, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(list(client.id.encode()) if client else 0)
        x = random.random(n)
        return x, 3 * x - 1 + random.normal(scale=0.1, size=n)


task = LineTask()
