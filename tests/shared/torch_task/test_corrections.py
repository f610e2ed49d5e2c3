from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import InvalidState
from shared.task import Arrays
from shared.torch_task.corrections import Correction
from tests.shared.torch_examples import CLIENT, a_task, as_received, parameters_of, some_data, some_work, train

Doubles = NDArray[np.float64]
STEPS, RATE = 7, 0.05
CORRECTION: Arrays = {"weight": np.array([[0.5, -1.0, 2.0]], np.float32), "bias": np.array([-0.25], np.float32)}


def linear64() -> nn.Module:
    """Four parameters, in float64 so that NumPy's sums and torch's agree to the fifteenth digit."""
    return nn.Linear(3, 1, dtype=torch.float64)


def in_numpy(
    start: Arrays, steps: Callable[[Doubles], Doubles], *, correction: Doubles, mu: float, bound: float | None = None
) -> Doubles:
    """Take steps of w ← w − η (g + correction + µ (w − w_received)) in NumPy; (weight..., bias)."""
    w = received = np.concatenate([start["weight"].ravel(), start["bias"]]).astype(np.float64)
    for _ in range(STEPS):
        gradient = steps(w)
        norm = float(np.linalg.norm(gradient))
        if bound is not None and norm > bound:
            gradient = gradient * bound / (norm + 1e-6)  # as torch's clip_grad_norm_
        w = w - RATE * (gradient + correction + mu * (w - received))
    return w


def gradient_of_squared_error(w: Doubles) -> Doubles:
    """Of mean((xw + b − y)²) over `some_data`."""
    x, y = (tensor.numpy() for tensor in some_data(dtype=torch.float64).tensors)
    x = np.hstack([x, np.ones((len(x), 1))])
    gradient: Doubles = 2 * x.T @ (x @ w - y.ravel()) / len(x)
    return gradient


@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize(
    ("algorithm", "correction", "mu"),
    [("fedprox", {}, 0.7), ("scaffold", CORRECTION, 0.0), ("feddyn", CORRECTION, 0.3), ("fedavg", {}, 0.0)],
)
def test_steps_are_those_of_numpy(algorithm: str, correction: Arrays, mu: float, bound: float | None) -> None:
    """To 1e-12; the bound is on the loss's gradient, and what the algorithm adds comes after it."""
    task = a_task(linear64, some_data(dtype=torch.float64), max_gradient_norm=bound)
    start = as_received(task.initial_parameters(1))
    work = some_work(
        algorithm=algorithm,
        epochs=STEPS,
        batch_size=None,
        learning_rate=RATE,
        correction=correction,
        mu=mu,
    )
    found = parameters_of(task.train(start, work, CLIENT))
    added = np.concatenate([correction["weight"].ravel(), correction["bias"]]) if correction else np.zeros(4)
    expected = in_numpy(start, gradient_of_squared_error, correction=added, mu=mu, bound=bound)
    assert np.concatenate([found["weight"].ravel(), found["bias"]]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_control_variate_of_a_corrected_training_is_the_mean_of_the_bounded_gradients() -> None:
    """SCAFFOLD's option II, c_i ← c_i − c + (x − y) / (Kη), recovers it whatever the correction c − c_i is."""
    task = a_task(linear64, some_data(dtype=torch.float64), max_gradient_norm=0.5)
    start = as_received(task.initial_parameters(1))
    work = some_work(algorithm="scaffold", epochs=1, batch_size=None, learning_rate=RATE, correction=CORRECTION)
    found = parameters_of(task.train(start, work, CLIENT))
    kept = np.concatenate([((start[n] - found[n]) / RATE - CORRECTION[n]).ravel() for n in ("weight", "bias")])
    assert np.linalg.norm(kept) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "scaffold", "feddyn", "qfedavg"])
def test_a_training_without_correction_has_the_bits_of_fedavg(algorithm: str) -> None:
    """Whatever it is called: µ = 0 and no correction are FedAvg, dropout and order of batches included."""

    def with_dropout() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))

    found, plain = (
        parameters_of(train(a_task(with_dropout), algorithm=name, epochs=2)) for name in (algorithm, "fedavg")
    )
    assert all(found[name].tobytes() == plain[name].tobytes() for name in plain)


class Tied(nn.Module):
    """y = w x + w x, with a spare parameter that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
        self.second.weight = self.first.weight
        self.spare = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.first(x) + self.second(x)
        return out


def moved(correction: Arrays, **changes: Any) -> Arrays:
    """What a correction does to one step at rate 1, beside the step that it is added to."""
    plain, corrected = (
        parameters_of(train(a_task(Tied, **changes), batch_size=None, learning_rate=1.0, correction=given))
        for given in ({}, correction)
    )
    return {name: plain[name] - corrected[name] for name in plain}


@pytest.mark.parametrize("names", [("first.weight", "second.weight"), ("first.weight",), ("second.weight",)])
def test_tied_parameters_are_corrected_once_under_any_of_their_names(names: tuple[str, ...]) -> None:
    """The flat vector has them once, and its arrays have both names."""
    found = moved(dict.fromkeys(names, np.ones((1, 3), np.float32)))
    assert found["first.weight"] == pytest.approx(np.ones((1, 3)), rel=1e-5)
    assert np.array_equal(found["first.weight"], found["second.weight"])


def test_parameter_without_a_gradient_is_corrected_from_zero() -> None:
    """Its loss is flat there, and the gradient of what the algorithm minimises is the correction alone."""
    assert moved({"spare": np.array([1.0, -2.0], np.float32)})["spare"].tolist() == [1.0, -2.0]


def test_personal_and_unknown_names_are_corrected_by_nothing() -> None:
    """A correction is of what travels; buffers and what lies beside the model may be in it."""
    ones = np.ones(2, np.float32)
    found = moved({"spare": ones, "no.such": ones}, personal=["spare"])
    assert not any(array.any() for array in found.values())


def test_pull_towards_the_received_leaves_personal_entries_alone() -> None:
    """A parameter that is 2 away from where it was is pulled back by 2 µ; one that does not travel is not."""
    w, own = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    correction = Correction({w: ["w"]}, {}, 10.0)
    with torch.no_grad():
        w.add_(2.0)
        own.add_(2.0)
    w.grad, own.grad = torch.zeros(2), torch.zeros(2)
    correction.add()
    assert w.grad.tolist() == [20.0, 20.0]
    assert own.grad.tolist() == [0.0, 0.0]


def test_correction_of_another_shape_is_refused() -> None:
    """Torch would broadcast it."""
    with pytest.raises(InvalidState, match=r"'weight' is \[1\], the model's is \[1, 3\]"):
        train(a_task(), correction={"weight": np.ones(1, np.float32)})
