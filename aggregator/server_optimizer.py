"""The server optimizer: the aggregated delta moves the model.

Plain SGD on the pseudo-gradient −delta, as in Reddi et al., "Adaptive Federated Optimization" (ICLR 2021, arXiv
2003.00295), Algorithm 1 with SERVEROPT = SGD: w ← w + η_s · delta. With η_s = 1 and FedAvg's deltas the next model is
the weighted mean of the clients' models. With FedSGD a device returns −g_k, and McMahan et al. (arXiv 1602.05629)
Algorithm 1 with E = 1, B = ∞, w ← w − η Σ (n_k/n) g_k, is the same step at rate η_s · η: see `learning_rate_of`.

Buffers, such as running means and variances, take the mean of the clients' values whatever the rate: a running
variance extrapolated past the mean could turn negative.

Not here: how updates combine (`rules/`).
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aggregator.rules import BLOCK_PARAMS, Delta
from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec, Vector

__all__ = ["OptimizerState", "ServerOptimizer", "Sgd", "learning_rate_of", "optimizer_named"]

OptimizerState: TypeAlias = Mapping[str, NDArray[np.float32]]
"""What an optimizer keeps between versions, by name: it lies in the version file."""


class ServerOptimizer(Protocol):
    """A pure pair: begin, step."""

    def init(self, spec: ParameterSpec) -> OptimizerState:
        """Return the state before the first version."""

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        """Return the next model and the next state; neither argument is changed.

        Args:
            state: as `init` or the last `step` returned it.
            parameters: (n_params,) float32.
            delta: (n_params,) float64, as the rule returned it.
            spec: whose trainables are stepped.
            learning_rate: as `learning_rate_of` gives it.

        Raises:
            ConfigError: the next model is not finite: the rates are too high. Nothing was changed.
        """


class Sgd:
    """parameters + rate x delta in the trainables, parameters + delta in everything else. Keeps no state."""

    def init(self, spec: ParameterSpec) -> OptimizerState:
        return {}

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        if not len(parameters) == len(delta) == spec.n_params:
            raise InvalidState(f"{len(parameters)} parameters, {len(delta)} of delta, {spec.n_params} of the spec")
        moved = np.empty(spec.n_params, dtype=np.float32)
        for start in range(0, spec.n_params, BLOCK_PARAMS):
            block = slice(start, start + BLOCK_PARAMS)
            step = delta[block] * np.where(spec.is_trainable[block], learning_rate, 1.0)
            step += parameters[block]
            with np.errstate(over="ignore"):  # beyond float32 is inf, and refused below
                moved[block] = step
        if not np.isfinite(moved).all():
            name = next(e.names[0] for e in spec.entries if not np.isfinite(moved[e.slice]).all())
            raise ConfigError(
                f"the next model is not finite: {name!r} has NaN or Inf",
                hint="the run diverges: lower training.learning_rate or server.optimizer.learning_rate",
            )
        return moved, state


_OPTIMIZERS: Mapping[str, ServerOptimizer] = {"sgd": Sgd()}


def optimizer_named(name: str) -> ServerOptimizer:
    """Return a server optimizer.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return _OPTIMIZERS[name]
    except KeyError:
        raise ConfigError(f"no server optimizer {name!r}", hint=f"there are: {', '.join(_OPTIMIZERS)}") from None


def learning_rate_of(algorithm: str, *, server: float, client: float, decay: float = 1.0, version: int = 0) -> float:
    """Return the rate at which the server steps when it leaves `version`.

    Args:
        algorithm: "fedsgd": devices return bare gradients, and the server alone applies the client rate; with any
            other they have applied it themselves.
        server: `server.optimizer.learning_rate`, η_s.
        client: `training.learning_rate`, η.
        decay: `training.learning_rate_decay`, a factor a version.
        version: that the updates were trained from.
    """
    return server * client * decay**version if algorithm == "fedsgd" else server
