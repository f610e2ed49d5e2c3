"""The optimizers that step a model on a device: SGD, SGD with momentum, Adam, with the bits of `torch.optim`'s.

The first use of one of torch's own imports a compiler: 80 MB and 2 s a process. Ours stand in for them on small
machines, and speak their protocol, so that either may be given to a task and its moments kept (`kept_moments.py`).

Not here: how the server moves its model (`aggregator/server_optimizers/`).
"""

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor, nn

from shared.errors import ConfigError

__all__ = ["ClientOptimizer", "adam", "check_step", "momentum", "sgd", "warn_of_scaffold"]


class ClientOptimizer(Protocol):
    """What a step needs; every `torch.optim.Optimizer` is one."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self) -> Any:
        """Move the parameters by their gradients."""


class _Optimizer:
    """What the three have in common: parameters in their order, and the moments of each by name."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self._parameters, self._learning_rate = list(parameters), learning_rate
        self._moments: dict[int, dict[str, Tensor]] = {}
        self.param_groups: list[dict[str, Any]] = [{"params": self._parameters, "lr": learning_rate}]

    def zero_grad(self) -> None:
        for p in self._parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for i, p in enumerate(self._parameters):
            if p.grad is not None:
                self._move(p, p.grad, self._moments.setdefault(i, {}))

    def state_dict(self) -> dict[str, Any]:
        """Return the moments by the place of their parameter, as an optimizer of torch does."""
        return {"state": {i: dict(found) for i, found in self._moments.items() if found}, "param_groups": [{}]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these moments."""
        self._moments = {
            i: {
                name: value.to(torch.float32 if name == "step" else self._parameters[i].dtype, copy=True)
                for name, value in moments.items()
            }
            for i, moments in state["state"].items()
        }

    def _move(self, p: nn.Parameter, gradient: Tensor, moments: dict[str, Tensor]) -> None:
        raise NotImplementedError


class _Sgd(_Optimizer):
    """p ← p − η g."""

    def _move(self, p: nn.Parameter, gradient: Tensor, moments: dict[str, Tensor]) -> None:
        p.add_(gradient, alpha=-self._learning_rate)


class _Momentum(_Optimizer):
    """b ← β b + g, b₁ = g;  p ← p − η b, or with Nesterov's p ← p − η (g + β b)."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, *, factor: float, nesterov: bool
    ) -> None:
        super().__init__(parameters, learning_rate)
        self._factor, self._nesterov = factor, nesterov

    def _move(self, p: nn.Parameter, gradient: Tensor, moments: dict[str, Tensor]) -> None:
        if "momentum_buffer" in moments:
            moments["momentum_buffer"].mul_(self._factor).add_(gradient)
        else:
            moments["momentum_buffer"] = gradient.detach().clone()
        b = moments["momentum_buffer"]
        p.add_(gradient.add(b, alpha=self._factor) if self._nesterov else b, alpha=-self._learning_rate)


class _Adam(_Optimizer):
    """m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²;  p ← p − η m̂ / (√v̂ + ε)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(parameters, learning_rate)
        self._betas, self._eps = betas, eps

    def _move(self, p: nn.Parameter, gradient: Tensor, moments: dict[str, Tensor]) -> None:
        if not moments:
            moments.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        first, second = self._betas
        moments["step"] += 1
        moments["exp_avg"].lerp_(gradient, 1 - first)
        moments["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        # float64 of Python's, as torch's own: 1 - 0.999 ** t has few digits left in float32
        step = moments["step"].item()
        step_size = self._learning_rate / (1 - first**step)
        scale = (1 - second**step) ** 0.5
        p.addcdiv_(moments["exp_avg"], (moments["exp_avg_sq"].sqrt() / scale).add_(self._eps), value=-step_size)


def sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> ClientOptimizer:
    """Return plain stochastic gradient descent."""
    return _Sgd(parameters, learning_rate)


def momentum(
    parameters: Iterable[nn.Parameter], learning_rate: float, *, factor: float = 0.9, nesterov: bool = False
) -> ClientOptimizer:
    """Return SGD with momentum; for another factor, `functools.partial(momentum, factor=0.5)`.

    Raises:
        ConfigError: `factor` is not in [0, 1).
    """
    if not 0 <= factor < 1:
        raise ConfigError(f"momentum's factor is {factor}, it must be in [0, 1)")
    return _Momentum(parameters, learning_rate, factor=factor, nesterov=nesterov)


def adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> ClientOptimizer:
    """Return Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980, algorithm 1), with ε outside of the root.

    Raises:
        ConfigError: a β is not in [0, 1), or `eps` is negative.
    """
    if not all(0 <= beta < 1 for beta in betas) or not eps >= 0:
        raise ConfigError(f"adam's betas are {betas} and eps {eps}: betas are in [0, 1), eps is at least 0")
    return _Adam(parameters, learning_rate, betas=betas, eps=eps)


def check_step(optimizer: object) -> None:
    """Refuse an optimizer that asks for the loss again within its step, as LBFGS does.

    Args:
        optimizer: one, or its class, or a partial of that; of another function nothing is known before it is called.

    Raises:
        ConfigError: its `step` cannot be called without arguments.
    """
    while isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    step = getattr(optimizer, "step", None)
    if step is None:
        return
    try:
        parameters = list(inspect.signature(step).parameters.values())
    except (TypeError, ValueError):  # of what is written in C there is none
        return
    is_class = isinstance(optimizer, type)
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters[int(is_class) :] if p.default is p.empty and p.kind in named]
    if needed:
        raise ConfigError(
            f"optimizer {_name_of(optimizer)}: its step needs {needed[0]!r}, and a training calls step()",
            where="TorchTask",
            hint="use sgd, momentum, adam, or one of torch.optim whose step needs nothing",
        )


def warn_of_scaffold(optimizer: ClientOptimizer, learning_rate: float) -> None:
    """Log, once a process, that what SCAFFOLD makes of this optimizer's steps is no mean gradient."""
    if not _is_plain_sgd(optimizer, learning_rate):
        _warn_of_scaffold(_name_of(optimizer))


@functools.cache
def _warn_of_scaffold(name: str) -> None:
    structlog.get_logger().warning(
        "scaffold_without_plain_sgd",
        optimizer=name,
        so="scaffold divides what was moved by steps x learning_rate: only after plain SGD is that the mean gradient",
        remedy="leave out optimizer (TorchTask), or use another training.algorithm",
    )


def _is_plain_sgd(optimizer: ClientOptimizer, learning_rate: float) -> bool:
    """Return whether w moves by -learning_rate x gradient, as far as one can see."""
    if isinstance(optimizer, _Sgd):
        return True
    if type(optimizer) is not torch.optim.SGD:
        return False
    return all(group["momentum"] == 0 and group["lr"] == learning_rate for group in optimizer.param_groups)


def _name_of(optimizer: object) -> str:
    kind = optimizer if isinstance(optimizer, type) else type(optimizer)
    return kind.__name__.removeprefix("_")
