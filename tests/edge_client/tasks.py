"""Tasks for the tests of a device: NumPy only, and as good or bad as a test needs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Trained, Work

__all__ = ["AddOne", "Scripted"]


@dataclass
class AddOne:
    """Every parameter grows by one; ten batches.

    Args:
        n_params: how many there are.
        state: whether it keeps a counter on the client.
    """

    n_params: int = 1000
    state: bool = False
    seen: list[Work] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def initial_parameters(self, seed: int) -> Initial:
        """Zeros."""
        return Initial({"w": np.zeros(self.n_params, np.float32)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Add one."""
        self.seen.append(work)
        self.clients.append(client)
        for step in range(10):
            if not work.progress(step + 1, 10):
                break
        count = float(work.state["count"]) if "count" in work.state else 0.0
        state = {"count": np.array(count + 1)} if self.state else {}
        return Trained(
            parameters={"w": parameters["w"] + 1}, num_examples=7, n_steps=10, metrics={"loss": 0.5}, state=state
        )

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Half of it is right."""
        return Evaluated(num_examples=4, metrics={"accuracy": Ratio(2, 4)})


@dataclass
class Scripted(AddOne):
    """Trains as it is told.

    Args:
        script: what `train` does.
    """

    script: Callable[[Arrays, Work], Trained] | None = None

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Do as told."""
        assert self.script is not None
        return self.script(parameters, work)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """There is no data here."""
        return None
