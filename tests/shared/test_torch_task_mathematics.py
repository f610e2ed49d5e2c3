"""What FedSGD and FedAvg must equal, over `TorchTask` and the flat vector alone.

The aggregator's own rules have tests of their own; here the mean over clients is written out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Subset, TensorDataset

from shared.parameters import ParameterSpec, Vector, delta_of
from shared.task import Client, ClientId, Ratio, Work
from shared.torch_task import Batch, TorchTask

SIZES = [1, 2, 7, 30, 60, 300]
"""Examples of six clients: one alone, and one that needs two pieces."""
RATE = 0.05


def data(dtype: torch.dtype) -> TensorDataset:
    """400 points of three classes."""
    order = torch.Generator().manual_seed(5)
    x = torch.randn(sum(SIZES), 6, generator=order, dtype=torch.float64)
    return TensorDataset(x.to(dtype), (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    x, y = batch
    return functional.cross_entropy(model(x), y)


def a_task(dtype: torch.dtype) -> TorchTask:
    """Client i of six has its own examples; client 0 of one has them all."""
    whole = data(dtype)
    ends = np.cumsum(SIZES)

    def of_client(client: Client) -> Any:
        assert client.partition is not None
        i, n = client.partition
        return whole if n == 1 else Subset(whole, range(ends[i] - SIZES[i], ends[i]))

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)

    return TorchTask(model=model, loss=loss, train_data=of_client, test_data=lambda client: whole, device="cpu")


def work(algorithm: str, *, rate: float = RATE) -> Work:
    """One full-batch step, or one gradient."""
    return Work(
        round_id=1,
        seed=11,
        algorithm=algorithm,
        epochs=1,
        max_steps=None,
        max_seconds=None,
        batch_size=None,
        learning_rate=rate,
        options={},
        state={},
        progress=lambda steps_done, n_steps, **metrics: True,
    )


def mean_delta(task: TorchTask, spec: ParameterSpec, vector: Vector, algorithm: str) -> NDArray[np.float64]:
    """Σ (n_k / n) Δ_k over the six clients."""
    total = np.zeros(spec.n_params)
    for i, size in enumerate(SIZES):
        client = Client(id=ClientId(f"c{i}"), partition=(i, len(SIZES)))
        trained = task.train(spec.unflatten(vector), work(algorithm), client)
        assert trained.num_examples == size
        total += size / sum(SIZES) * delta_of(trained, vector, spec)
    return total


def central_gradient(spec: ParameterSpec, task: TorchTask, vector: Vector, dtype: torch.dtype) -> NDArray[np.float64]:
    """The gradient of the mean loss over all examples, by plain torch."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    model.load_state_dict({name: torch.tensor(array) for name, array in spec.unflatten(vector).items()})
    loss(model, data(dtype).tensors).backward()  # type: ignore[no-untyped-call]
    parts = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    gradient: NDArray[np.float64] = torch.cat(parts).numpy()
    return gradient


def start(task: TorchTask) -> tuple[ParameterSpec, Vector]:
    """The spec and the model of seed 1."""
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    return spec, spec.flatten(initial.parameters)


both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@both_dtypes
def test_the_mean_gradient_of_split_clients_is_that_of_the_union(dtype: torch.dtype) -> None:
    """Σ (n_k / n) g_k = g, whatever the sizes of the shards: to rounding, at the model's own precision."""
    task = a_task(dtype)
    spec, vector = start(task)
    federated = -mean_delta(task, spec, vector, "fedsgd")
    central = central_gradient(spec, task, vector, dtype)
    assert np.linalg.norm(federated - central) <= 1e-6 * np.linalg.norm(central)


@both_dtypes
def test_twenty_steps_of_fedsgd_are_twenty_steps_of_gradient_descent(dtype: torch.dtype) -> None:
    """‖Δw‖ / ‖w‖ ≤ 1e-6 at every step, with the server's model in float32."""
    task = a_task(dtype)
    spec, federated = start(task)
    central = federated.astype(np.float64)
    for _ in range(20):
        federated = (federated + RATE * mean_delta(task, spec, federated, "fedsgd")).astype(np.float32)
        central = central - RATE * central_gradient(spec, task, central.astype(np.float32), dtype)
        assert np.linalg.norm(federated - central) <= 1e-6 * np.linalg.norm(central)


@both_dtypes
def test_fedavg_with_one_full_batch_step_is_the_fedsgd_step(dtype: torch.dtype) -> None:
    """McMahan et al. (2017), section 2: w - η Σ (n_k / n) g_k = Σ (n_k / n) (w - η g_k)."""
    task = a_task(dtype)
    spec, vector = start(task)
    averaged = mean_delta(task, spec, vector, "fedavg")
    stepped = RATE * mean_delta(task, spec, vector, "fedsgd")
    # a float32 model is rounded after its local step, at 2^-24 of its own size
    assert np.linalg.norm(averaged - stepped) <= 2**-23 * np.linalg.norm(vector)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_the_first_order_of_a_small_step_is_minus_rate_times_squared_gradient(algorithm: str) -> None:
    """A step along the mean delta lowers the loss by η ‖g‖², as Taylor says: sign and size are right."""
    task = a_task(torch.float64)
    spec, vector = start(task)
    delta = mean_delta(task, spec, vector, algorithm) * (1 if algorithm == "fedavg" else RATE)
    gradient = central_gradient(spec, task, vector, torch.float64)
    scale = 1e-2
    moved = (vector + scale * delta).astype(np.float32)
    lowered = mean_loss(task, spec, vector) - mean_loss(task, spec, moved)
    assert lowered == pytest.approx(scale * RATE * float(gradient @ gradient), rel=0.02)


def mean_loss(task: TorchTask, spec: ParameterSpec, vector: Vector) -> float:
    """Over all examples."""
    evaluated = task.evaluate(spec.unflatten(vector), None, {})
    assert evaluated is not None
    ratio = evaluated.metrics["loss"]
    assert isinstance(ratio, Ratio)
    return ratio.numerator / ratio.denominator


def test_weights_by_examples_on_a_case_worked_by_hand() -> None:
    """Loss (w - x)²/2 at w = 0 and rate 0.01: w moves by 0.01 Σ n_k x_k / n.

    Three clients of 1000 examples x = 1, one of 1000 x = 5: 0.01 x (3 x 1 + 5) / 4 = 0.02.
    One of 100 examples x = 1, one of 300 x = 5: 0.01 x (100 x 1 + 300 x 5) / 400 = 0.04.
    """
    assert one_step([(1.0, 1000), (1.0, 1000), (1.0, 1000), (5.0, 1000)]) == pytest.approx(0.02, rel=1e-6)
    assert one_step([(1.0, 100), (5.0, 300)]) == pytest.approx(0.04, rel=1e-6)


def one_step(clients: list[tuple[float, int]]) -> float:
    """One round of FedSGD at rate 0.01 on a model of one parameter."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.w.expand_as(x)

    def half_squared(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[0]) / 2

    def of(value: float, n: int) -> Callable[[Client], TensorDataset]:
        return lambda client: TensorDataset(torch.full((n,), value))

    total, n_examples = 0.0, 0
    for value, n in clients:
        task = TorchTask(model=Constant, loss=half_squared, train_data=of(value, n), device="cpu")
        spec, vector = start(task)
        trained = task.train(spec.unflatten(vector), work("fedsgd"), Client(id=ClientId("c")))
        total += trained.num_examples * float(delta_of(trained, vector, spec)[0])
        n_examples += trained.num_examples
    return 0.01 * total / n_examples
