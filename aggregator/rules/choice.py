"""The rule that the settings name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aggregator.rules.mean import Mean
from aggregator.rules.rule import AggregationRule
from shared.errors import ConfigError, InvalidState

__all__ = ["RULES", "rule_named"]

RULES: Mapping[str, Callable[[NDArray[np.bool_] | None], AggregationRule]] = MappingProxyType({"mean": Mean})
"""Every rule by its name in the settings; takes which parameters it normalises by steps."""


def rule_named(
    name: str, *, normalize: Literal["none", "steps"] = "none", is_trainable: NDArray[np.bool_] | None = None
) -> AggregationRule:
    """Return a rule.

    Args:
        name: as in the settings.
        normalize: "steps": as FedNova does.
        is_trainable: (n_params,) bool, the parameters that are; needed for that.

    Raises:
        ConfigError: there is none of that name.
        InvalidState: nobody says which parameters are trainable.
    """
    if name not in RULES:
        raise ConfigError(f"no aggregation rule {name!r}", hint=f"there are: {', '.join(RULES)}")
    if normalize == "steps" and is_trainable is None:
        raise InvalidState("steps of which parameters?")
    return RULES[name](is_trainable if normalize == "steps" else None)
