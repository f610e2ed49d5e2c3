"""The optimizers that step a model on a device. Importing them loads no compiler, as `torch.optim` does.

Not here: how the server moves its model (`aggregator/server_optimizers/`).
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["ClientOptimizer", "sgd"]


class ClientOptimizer(Protocol):
    """What a step needs; every `torch.optim.Optimizer` is one."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Move the parameters by their gradients."""


class _Sgd:
    """p ← p − η g, with the bits of `torch.optim.SGD`, whose first use imports a compiler: 80 MB and 2 s a process."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self._parameters, self._learning_rate = list(parameters), learning_rate

    def zero_grad(self) -> None:
        for p in self._parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for p in self._parameters:
            if p.grad is not None:
                p.add_(p.grad, alpha=-self._learning_rate)


def sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> ClientOptimizer:
    """Return plain stochastic gradient descent."""
    return _Sgd(parameters, learning_rate)
