from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared.errors import ConfigError
from shared.task import BESIDE_MODEL, Arrays, Trained
from shared.torch_task import ClientOptimizer, TorchTask, adam, momentum, sgd
from tests.shared.torch_examples import CLIENT, a_task, as_received, parameters_of, some_data, some_work

Make = Callable[[Iterable[nn.Parameter], float], ClientOptimizer]


def reversed_groups(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The biases first, slower: the places in this optimizer are not those of the model."""
    found = list(parameters)
    groups: list[dict[str, Any]] = [{"params": found[1:], "lr": rate / 2}, {"params": found[:1]}]
    return torch.optim.SGD(groups, lr=rate, momentum=0.9)


KEPT: dict[str, Make] = {
    "momentum": momentum,
    "adam": adam,
    "torch's momentum": lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9),
    "torch's AdamW": lambda p, rate: torch.optim.AdamW(p, lr=rate),
    "torch's RMSprop": lambda p, rate: torch.optim.RMSprop(p, lr=rate),
    "groups": reversed_groups,
}


def trained_twice(task: TorchTask, start: Arrays, *, epochs: int, algorithm: str = "fedavg") -> tuple[Trained, Trained]:
    """Train, and train on from there with the state that came back; full batches."""
    work = {"epochs": epochs, "batch_size": None, "algorithm": algorithm, "learning_rate": 0.02}
    first = task.train(start, some_work(**work), CLIENT)
    after = first.parameters if first.parameters is not None else start
    return first, task.train(after, some_work(**work, state=first.state), CLIENT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KEPT)
def test_two_trainings_with_kept_moments_are_one_of_twice_the_length(name: str, dtype: torch.dtype) -> None:
    """To the bit, where the server hands back what it was given; without the option they are not.

    Of one example, for the order of examples changes the last bits of a sum.
    """
    task, forgetful = (
        a_task(
            lambda: nn.Linear(3, 1, dtype=dtype),
            some_data(1, dtype=dtype),
            optimizer=KEPT[name],
            keep_optimizer=is_kept,
        )
        for is_kept in (True, False)
    )
    start = as_received(task.initial_parameters(1))
    whole = parameters_of(task.train(start, some_work(epochs=8, batch_size=None, learning_rate=0.02), CLIENT))
    halves = parameters_of(trained_twice(task, start, epochs=4)[1])
    others = parameters_of(trained_twice(forgetful, start, epochs=4)[1])
    assert all(halves[entry].tobytes() == whole[entry].tobytes() for entry in whole)
    assert any(others[entry].tobytes() != whole[entry].tobytes() for entry in whole)


def test_moments_are_kept_by_the_name_of_their_parameter_beside_the_model() -> None:
    """An evaluation does not take them for a model of the client's own."""
    task = a_task(optimizer=adam, keep_optimizer=True)
    state = trained_twice(task, as_received(task.initial_parameters(1)), epochs=3)[1].state
    names = {f"{BESIDE_MODEL}optimizer.{p}.{m}" for p in ("weight", "bias") for m in ("step", "exp_avg", "exp_avg_sq")}
    assert set(state) == names
    assert float(state["~optimizer.weight.step"]) == 6
    assert state["~optimizer.weight.exp_avg"].shape == (1, 3)


def test_without_the_option_or_without_moments_nothing_is_kept() -> None:
    """Plain SGD has nothing to keep, and whoever does not ask for it gets no state."""
    start = as_received(a_task().initial_parameters(1))
    for task in (a_task(optimizer=adam), a_task(optimizer=sgd, keep_optimizer=True)):
        assert task.train(start, some_work(), CLIENT).state == {}


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_personal_entries_and_moments_lie_side_by_side(algorithm: str) -> None:
    """Under fedsgd only personal entries are stepped on the device, and only they have moments."""
    task = a_task(optimizer=momentum, keep_optimizer=True, personal=["bias"])
    first, second = trained_twice(task, as_received(task.initial_parameters(1)), epochs=2, algorithm=algorithm)
    own = {"bias", "~optimizer.bias.momentum_buffer"}
    assert set(first.state) == own | ({"~optimizer.weight.momentum_buffer"} if algorithm == "fedavg" else set())
    moved = first.state["bias"] - second.state["bias"]
    assert np.abs(moved).min() > 0
    if algorithm == "fedsgd":  # p ← p − η b
        assert moved == pytest.approx(0.02 * second.state["~optimizer.bias.momentum_buffer"], rel=1e-4)


class Bare:
    """What takes steps, and shows nothing."""

    def zero_grad(self) -> None:
        """See `ClientOptimizer`."""

    def step(self) -> None:
        """See `ClientOptimizer`."""


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda p, rate: Bare(), "Bare cannot be kept"),
        (lambda p, rate: _Stateful(p), "_Stateful holds 'history', a list: that cannot be kept"),
    ],
)
def test_optimizer_that_cannot_be_kept_is_refused(make: Make, cause: str) -> None:
    """One without a `state_dict`, and one that keeps what is no tensor of a parameter."""
    task = a_task(optimizer=make, keep_optimizer=True)
    with pytest.raises(ConfigError, match=cause):
        task.train(as_received(task.initial_parameters(1)), some_work(), CLIENT)
    without = a_task(optimizer=make)
    assert without.train(as_received(task.initial_parameters(1)), some_work(), CLIENT).state == {}


class _Stateful(torch.optim.Optimizer):
    """Remembers in a list, as LBFGS does."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Remember."""
        for p in self.param_groups[0]["params"]:
            self.state[p]["history"] = [1]
