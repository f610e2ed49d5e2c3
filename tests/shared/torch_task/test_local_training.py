import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from shared.initial_loss import INITIAL_LOSS
from shared.task import Arrays, Ratio, TrainingCancelled
from shared.torch_task import TorchTask, adam
from tests.shared.torch_examples import CLIENT, a_task, as_received, parameters_of, some_data, some_work, train

Doubles = NDArray[np.float64]


def test_qfedavg_reports_the_loss_of_the_received_model_over_all_training_examples() -> None:
    """F_k(w) before the first step, of 600 examples in pieces of 256: that of an evaluation, without dropout."""

    def with_dropout() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    task = a_task(with_dropout, some_data(600), test_data=lambda client: some_data(600))
    received = as_received(task.initial_parameters(1))
    trained = task.train(received, some_work(algorithm="qfedavg"), CLIENT)
    evaluated = task.evaluate(received, CLIENT, {})
    assert evaluated is not None
    assert trained.metrics[INITIAL_LOSS] == evaluated.metrics["loss"]
    assert INITIAL_LOSS not in train(task).metrics


def test_qfedavg_names_its_steps_while_it_looks_and_can_be_cancelled() -> None:
    """The pass before the first step is no step; a cancel ends it."""
    seen: list[tuple[int, int]] = []

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        seen.append((steps_done, n_steps))
        return True

    train(a_task(), algorithm="qfedavg", progress=progress)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def cancel(steps_done: int, n_steps: int, **metrics: float) -> bool:
        raise TrainingCancelled

    with pytest.raises(TrainingCancelled):
        train(a_task(), algorithm="qfedavg", progress=cancel)


def test_time_that_is_up_during_the_look_still_gives_one_step() -> None:
    """An update needs a step, and the loss is of all examples."""
    trained = train(a_task(), algorithm="qfedavg", progress=lambda done, n, **_: False)
    assert trained.n_steps == 1
    initial = trained.metrics[INITIAL_LOSS]
    assert isinstance(initial, Ratio)
    assert initial.denominator == 10
    assert np.isfinite(initial.numerator)


def body_and_head() -> nn.Module:
    """Two layers in float64: "0.*" is the body, "1.*" the head."""
    return nn.Sequential(nn.Linear(3, 2, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.float64))


def in_numpy(start: Arrays, n_head: int, n_body: int, rate: float) -> dict[str, Doubles]:
    """Take steps in the head, then in the body, of the mean squared error over `some_data`."""
    x, y = (tensor.numpy() for tensor in some_data(dtype=torch.float64).tensors)
    w = {name: np.asarray(array, np.float64).copy() for name, array in start.items()}
    for step in range(n_head + n_body):
        features = x @ w["0.weight"].T + w["0.bias"]
        error = 2 * (features @ w["1.weight"].T + w["1.bias"] - y) / len(x)
        if step < n_head:
            w["1.weight"] -= rate * error.T @ features
            w["1.bias"] -= rate * error.sum(axis=0)
        else:
            back = error @ w["1.weight"]
            w["0.weight"] -= rate * back.T @ x
            w["0.bias"] -= rate * back.sum(axis=0)
    return w


def start_of(task: TorchTask) -> tuple[Arrays, Arrays]:
    """What is received, and the whole model as a client builds it."""
    received = as_received(task.initial_parameters(1))
    still = task.train(received, some_work(learning_rate=1e-300), CLIENT)
    return received, {**received, **still.state}


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_head_epochs_train_the_head_alone_and_then_the_body_alone(algorithm: str) -> None:
    """FedRep to 1e-12 of NumPy's: six steps of the head, then the body's; under fedsgd its one gradient."""
    task = a_task(body_and_head, some_data(dtype=torch.float64), personal=["1.*"], head_epochs=6)
    received, whole = start_of(task)
    work = some_work(algorithm=algorithm, epochs=2, batch_size=None, learning_rate=0.05)
    trained = task.train(received, work, CLIENT)
    n_body = 2 if algorithm == "fedavg" else 1
    expected = in_numpy(dict(whole), 6, n_body, 0.05)
    assert trained.n_steps == n_body
    for name in ("1.weight", "1.bias"):
        assert trained.state[name] == pytest.approx(expected[name], rel=1e-12)
    for name in ("0.weight", "0.bias"):
        found = (
            parameters_of(trained)[name] if trained.gradient is None else received[name] - 0.05 * trained.gradient[name]
        )
        assert found == pytest.approx(expected[name], rel=1e-12)


@pytest.mark.parametrize(("is_over_at", "steps"), [(2, 3), (6, 7), (7, 7)])
def test_time_that_is_up_in_the_head_still_gives_the_body_a_step(is_over_at: int, steps: int) -> None:
    """An update without a step would weigh what it has not learned; progress counts all steps of both."""
    seen: list[tuple[int, int]] = []

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        seen.append((steps_done, n_steps))
        return steps_done < is_over_at

    trained = train(
        a_task(body_and_head, some_data(dtype=torch.float64), personal=["1.*"], head_epochs=2),
        progress=progress,
        epochs=4,
    )
    assert seen == [(step, 18) for step in range(1, steps + 1)]
    assert trained.n_steps == 1


def test_corrections_of_a_training_in_two_parts_are_of_the_body_alone() -> None:
    """Three steps of the head move what they move; the body moves by the correction more."""
    task = a_task(body_and_head, some_data(dtype=torch.float64), personal=["1.*"], head_epochs=3)
    received, _ = start_of(task)
    correction = {"0.bias": np.array([1.0, -1.0]), "1.bias": np.array([100.0])}
    work = {"epochs": 1, "batch_size": None, "learning_rate": 0.5}
    plain, corrected = (task.train(received, some_work(**work, correction=each), CLIENT) for each in ({}, correction))
    assert np.array_equal(plain.state["1.bias"], corrected.state["1.bias"])
    moved = parameters_of(plain)["0.bias"] - parameters_of(corrected)["0.bias"]
    assert moved == pytest.approx([0.5, -0.5])


def test_moments_of_both_parts_are_kept() -> None:
    """Each part has an optimizer of its own, and both go on in the next training."""
    task = a_task(
        body_and_head,
        some_data(dtype=torch.float64),
        personal=["1.*"],
        head_epochs=2,
        optimizer=adam,
        keep_optimizer=True,
    )
    received, _ = start_of(task)
    first = task.train(received, some_work(epochs=3, batch_size=None), CLIENT)
    second = task.train(received, some_work(epochs=3, batch_size=None, state=first.state), CLIENT)
    steps = {name: float(second.state[f"~optimizer.{name}.step"]) for name in ("0.weight", "1.weight")}
    assert steps == {"0.weight": 6, "1.weight": 4}
