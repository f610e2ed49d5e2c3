from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import structlog
import torch
from torch import nn

from shared.errors import ConfigError
from shared.torch_task import ClientOptimizer, adam, momentum, sgd
from shared.torch_task.client_optimizers import _warn_of_scaffold
from tests.shared.torch_examples import a_task, parameters_of, some_data, train

Make = Callable[[Iterable[nn.Parameter], float], ClientOptimizer]
PAIRS: dict[str, tuple[Make, Make]] = {
    "sgd": (sgd, lambda p, rate: torch.optim.SGD(p, lr=rate)),
    "momentum": (momentum, lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9)),
    "half momentum": (partial(momentum, factor=0.5), lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.5)),
    "nesterov": (
        partial(momentum, nesterov=True),
        lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9, nesterov=True),
    ),
    "adam": (adam, lambda p, rate: torch.optim.Adam(p, lr=rate)),
    "other adam": (
        partial(adam, betas=(0.5, 0.9), eps=1e-3),
        lambda p, rate: torch.optim.Adam(p, lr=rate, betas=(0.5, 0.9), eps=1e-3),
    ),
}
"""Ours, and torch's own."""


class WithSpare(nn.Module):
    """A network of which one parameter gets a gradient in some batches only, and one never."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5, dtype=dtype), nn.Tanh(), nn.Linear(5, 1, dtype=dtype))
        self.sometimes, self.never = (nn.Parameter(torch.ones(1, dtype=dtype)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1)."""
        out: torch.Tensor = self.net(x)
        return out + self.sometimes if x[0, 0] > 0 else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
def test_thirty_steps_have_the_bits_of_torchs_own(name: str, dtype: torch.dtype) -> None:
    """In batches of four, ten epochs long, parameters without a gradient included."""
    ours, theirs = (
        parameters_of(
            train(
                a_task(lambda: WithSpare(dtype), some_data(dtype=dtype), optimizer=make), epochs=10, learning_rate=0.03
            )
        )
        for make in PAIRS[name]
    )
    assert all(ours[entry].tobytes() == theirs[entry].tobytes() for entry in theirs)


def test_first_step_of_adam_worked_by_hand() -> None:
    """With m̂ = g and v̂ = g² it is η g / (|g| + ε): 0.1 x 2 / (2 + 1) with ε = 1."""
    p = nn.Parameter(torch.tensor([1.0]))
    p.grad = torch.tensor([2.0])
    adam([p], 0.1, eps=1.0).step()
    assert p.item() == pytest.approx(1 - 0.1 * 2 / 3)


def test_second_step_of_momentum_worked_by_hand() -> None:
    """Of gradients 1, 1 at rate 1 and factor 0.5: 1, then 0.5 x 1 + 1."""
    p = nn.Parameter(torch.tensor([0.0]))
    p.grad = torch.tensor([1.0])
    optimizer = momentum([p], 1.0, factor=0.5)
    optimizer.step()
    optimizer.step()
    assert p.item() == -2.5


@pytest.mark.parametrize(
    ("make", "changes"),
    [(momentum, {"factor": 1.0}), (momentum, {"factor": -0.1}), (adam, {"betas": (0.9, 1.0)}), (adam, {"eps": -1.0})],
)
def test_numbers_that_cannot_converge_are_refused(
    make: Callable[..., ClientOptimizer], changes: dict[str, Any]
) -> None:
    """By name, with what they must be."""
    with pytest.raises(ConfigError, match=next(iter(changes))):
        make([nn.Parameter(torch.ones(1))], 0.1, **changes)


def lbfgs(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.LBFGS:
    """Nothing is known of what it makes before it is called."""
    return torch.optim.LBFGS(parameters, lr=rate)


@pytest.mark.parametrize("keep_optimizer", [True, False])
@pytest.mark.parametrize("make", [torch.optim.LBFGS, partial(torch.optim.LBFGS, max_iter=3), lbfgs])
def test_optimizer_whose_step_needs_a_closure_is_refused_before_any_step(make: Make, keep_optimizer: bool) -> None:
    """By name, kept or not; where it is a class, when the task is made. TypeError in each round said nothing."""
    steps: list[int] = []

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        steps.append(steps_done)
        return True

    with pytest.raises(ConfigError, match="optimizer LBFGS: its step needs 'closure'"):
        train(a_task(optimizer=make, keep_optimizer=keep_optimizer), progress=progress)
    assert not steps


class Slower(torch.optim.SGD):
    """Of which nothing is known."""


@pytest.mark.parametrize(
    ("make", "algorithm", "named"),
    [
        (sgd, "scaffold", []),
        (lambda p, rate: torch.optim.SGD(p, lr=rate), "scaffold", []),
        (adam, "fedavg", []),
        (adam, "scaffold", ["Adam"]),
        (momentum, "scaffold", ["Momentum"]),
        (lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9), "scaffold", ["SGD"]),
        (lambda p, rate: torch.optim.SGD(p, lr=rate / 2), "scaffold", ["SGD"]),
        (lambda p, rate: Slower(p, lr=rate), "scaffold", ["Slower"]),
    ],
)
def test_scaffold_with_another_optimizer_than_plain_sgd_is_said_once(
    make: Make, algorithm: str, named: list[str]
) -> None:
    """Two trainings, one line: what was moved by K η is no mean gradient then."""
    _warn_of_scaffold.cache_clear()
    task = a_task(optimizer=make)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            train(task, algorithm=algorithm)
    assert [line["optimizer"] for line in logs if line["event"] == "scaffold_without_plain_sgd"] == named
