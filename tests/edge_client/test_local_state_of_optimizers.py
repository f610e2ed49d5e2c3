"""The moments of a client optimizer follow the outcome of the update that they came with, as all state does."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from shared.messages import Outcome
from shared.task import Arrays, Client, Evaluated, Initial, Trained, Work
from shared.torch_task import TorchTask, adam, momentum
from tests.edge_client.scene import Scene
from tests.shared.torch_examples import a_task

pytestmark = pytest.mark.virtual_time


@dataclass
class Watched:
    """A task, and what went in and came out of its trainings."""

    task: TorchTask
    states: list[Arrays] = field(default_factory=list)
    results: list[Arrays] = field(default_factory=list)

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return self.task.initial_parameters(seed)

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        trained = self.task.train(parameters, work, client)
        self.states.append(work.state)
        self.results.append(trained.state)
        return trained

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        return self.task.evaluate(parameters, client, state)


def equal(left: Arrays, right: Arrays) -> bool:
    """Whether two states are the same to the bit."""
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("optimizer", [adam, momentum])
async def test_moments_go_on_from_the_last_accepted_update_across_a_restart(tmp_path: Path, optimizer: object) -> None:
    """Accepted, refused, a reboot, accepted: the refused update's moments are as if they had never been."""
    task = Watched(a_task(optimizer=optimizer, keep_optimizer=True, personal=["bias"]))
    async with Scene(tmp_path, task) as scene:
        await scene.start(1)
        await scene.until_final(1)
        scene.aggregator.outcome = Outcome.REJECTED
        scene.aggregator.orders.append(scene.aggregator.order(2))
        await scene.until_final(2)
        await scene.kill_device()
        scene.aggregator.outcome = Outcome.ACCEPTED
        scene.aggregator.orders += [scene.aggregator.order(3), scene.aggregator.order(4)]
        scene.start_device()
        await scene.until_final(3, 4)
    first, second, third, _ = task.results
    assert task.states[0] == {}
    assert equal(task.states[1], first)
    assert equal(task.states[2], first)  # not the second's, which was refused
    assert not equal(second, first)
    assert equal(task.states[3], third)
    assert "~optimizer.weight.exp_avg" in third or "~optimizer.weight.momentum_buffer" in third
