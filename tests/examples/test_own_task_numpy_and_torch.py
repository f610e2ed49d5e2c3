import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared.parameters import ParameterSpec, delta_of
from shared.task import Client, ClientId, Ratio, Task, Work, load_task
from tests import task_work

ROOT = Path(__file__).parents[2]


def some_work(algorithm: str) -> Work:
    """Twenty steps, or one gradient."""
    return task_work.some_work(algorithm=algorithm, epochs=20, learning_rate=0.3)


@pytest.mark.parametrize("name", ["own_task_torch", "own_task_numpy"])
@pytest.mark.parametrize(("algorithm", "rate"), [("fedavg", 1.0), ("fedsgd", 0.3)])
def test_three_devices_find_the_line(name: str, algorithm: str, rate: float) -> None:
    """Both tasks learn y = 3x - 1 by either algorithm, from points that no two devices share."""
    task: Task = load_task(f"examples.{name}:task", ROOT)
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    vector = spec.flatten(initial.parameters)
    for _ in range(15 if algorithm == "fedavg" else 150):
        clients = [Client(id=ClientId(f"pi-{i}")) for i in range(3)]
        results = [task.train(spec.unflatten(vector), some_work(algorithm), client) for client in clients]
        deltas = [delta_of(trained, vector, spec) for trained in results]
        vector = (vector + rate * np.mean(deltas, axis=0)).astype(np.float32)
    assert vector == pytest.approx([3, -1], abs=0.15)
    evaluated = task.evaluate(spec.unflatten(vector), None, {})
    assert evaluated is not None
    loss = evaluated.metrics["loss"]
    assert isinstance(loss, Ratio)
    assert loss.numerator / loss.denominator < 0.03


def test_the_numpy_task_loads_no_torch() -> None:
    """A device without PyTorch runs it."""
    program = "import sys, examples.own_task_numpy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
