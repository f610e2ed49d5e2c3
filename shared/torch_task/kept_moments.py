"""A client optimizer's moments, kept on the client from one accepted update to the next.

They lie beside the personal entries in the client's state, by the name of their parameter, and under a prefix that no
model has: so they become current only once the update counts, survive reboots, and make no second model of their own
in an evaluation. Every optimizer whose `state_dict` holds tensors by parameter can be kept, torch's own too.
"""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from shared.errors import ConfigError
from shared.task import BESIDE_MODEL, Arrays
from shared.torch_task.arrays import to_arrays
from shared.torch_task.client_optimizers import ClientOptimizer

__all__ = ["MOMENTS", "moments_of", "restore_moments"]

MOMENTS = f"{BESIDE_MODEL}optimizer."
"""Begins the names of moments in a client's state: then come the parameter's name, a dot, and the moment's own."""


class _WithState(Protocol):
    param_groups: list[dict[str, Any]]

    def state_dict(self) -> dict[str, Any]:
        """Return moments by the place of their parameter."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Take them."""


def moments_of(optimizer: ClientOptimizer, named: Mapping[str, nn.Parameter]) -> Arrays:
    """Return an optimizer's moments by name.

    Args:
        optimizer: of these parameters.
        named: by the name under which its moments are kept.

    Raises:
        ConfigError: it has no `state_dict`, or holds in it what is no tensor of a parameter.
    """
    stateful, places = _with_state(optimizer), _places(optimizer, named)
    found: dict[str, Tensor] = {}
    for place, moments in stateful.state_dict()["state"].items():
        for moment, value in moments.items():
            if value is None:  # SGD without momentum
                continue
            if not isinstance(value, Tensor) or place not in places:
                hint = "leave out keep_optimizer, or use another optimizer"
                what = f"{type(optimizer).__name__} holds {moment!r}, a {type(value).__name__}: that cannot be kept"
                raise ConfigError(what, hint=hint)
            found[f"{MOMENTS}{places[place]}.{moment}"] = value
    return to_arrays(found)


def restore_moments(optimizer: ClientOptimizer, named: Mapping[str, nn.Parameter], state: Arrays) -> None:
    """Let an optimizer go on with what `moments_of` had found; parameters without any begin anew.

    Raises:
        ConfigError: it has no `state_dict`.
    """
    stateful, places = _with_state(optimizer), _places(optimizer, named)
    place_of = {name: place for place, name in places.items()}
    found: dict[int, dict[str, Tensor]] = {}
    for key, array in state.items():
        name, _, moment = key.removeprefix(MOMENTS).rpartition(".")
        if key.startswith(MOMENTS) and name in place_of:
            found.setdefault(place_of[name], {})[moment] = torch.tensor(array, device=named[name].device)
    if found:
        stateful.load_state_dict({**stateful.state_dict(), "state": found})


def _with_state(optimizer: ClientOptimizer) -> _WithState:
    if not all(hasattr(optimizer, name) for name in ("param_groups", "state_dict", "load_state_dict")):
        raise ConfigError(
            f"{type(optimizer).__name__} cannot be kept: it has no param_groups, state_dict and load_state_dict",
            hint="leave out keep_optimizer, or use sgd, momentum, adam, or one of torch.optim",
        )
    return cast(_WithState, optimizer)


def _places(optimizer: ClientOptimizer, named: Mapping[str, nn.Parameter]) -> dict[int, str]:
    """Return the name of each parameter by its place in the optimizer, whatever groups its user made."""
    name_of = {id(p): name for name, p in named.items()}
    parameters = [p for group in _with_state(optimizer).param_groups for p in group["params"]]
    return {place: name_of[id(p)] for place, p in enumerate(parameters) if id(p) in name_of}
