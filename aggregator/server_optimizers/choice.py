"""The server optimizer that the settings name: one of ours, or a user's own by "module:name".

A user's own is loaded into the aggregator's process, which keeps torch out: put it into a file of its own, beside the
TOML.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from aggregator.optimizer_settings import OptimizerSettings
from aggregator.server_optimizers.adaptive import Adagrad, Adam, Yogi
from aggregator.server_optimizers.momentum import FedAvgM, Sgd
from aggregator.server_optimizers.optimizer import ServerOptimizer
from shared.named_objects import load_named

__all__ = ["load_optimizer"]

_OURS: Mapping[str, Callable[..., ServerOptimizer]] = MappingProxyType(
    {"sgd": Sgd, "fedavgm": FedAvgM, "adagrad": Adagrad, "adam": Adam, "yogi": Yogi}
)


def load_optimizer(settings: OptimizerSettings, folder: Path) -> ServerOptimizer:
    """Return the optimizer that the settings name, with their numbers.

    Args:
        settings: `[server.optimizer]`.
        folder: where a user's module is looked for first: the TOML's.

    Raises:
        ConfigError: it cannot be imported, or lacks `init` or `step`.
    """
    if settings.name in _OURS:
        return _OURS[settings.name](**settings.numbers)
    found = load_named("server optimizer", settings.name, folder, ("init", "step"), example="my_optimizer:optimizer")
    return cast(ServerOptimizer, found)
