"""What a device algorithm adds to each gradient, and how what it keeps moves after training.

To a task all of them are one line: in every step, gradient <- gradient + correction + mu x (parameters - received).
What differs is where correction and mu come from, what a device keeps between its updates, and what travels:

* FedProx pulls towards the received model; nothing is kept, nothing more travels. Choose it where devices do unequal
  amounts of work, or drift.
* FedDyn keeps one vector a device, and nothing more travels: choose it where devices drift and bytes are dear.
* SCAFFOLD keeps one vector a device, and as many values again travel both ways: choose it where devices drift, and take
  part in a part of the rounds only.

All vectors here are of the trainables alone, in the order of the flat vector: (n_trainable,) float32, as a device keeps
them. The server sums in float64 (`aggregator/server_algorithm.py`). What a device keeps moves by what it has *sent*, as
the codec's other end reads it: so both sides know the same numbers, whatever a codec loses.

Not here: when what is kept becomes current (`edge_client/algorithm_states.py`), the step of the server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays

__all__ = [
    "ALGORITHMS",
    "CONTROL_VARIATE",
    "STATEFUL",
    "Adjustment",
    "DeviceAlgorithm",
    "FedDyn",
    "FedProx",
    "Plain",
    "Scaffold",
    "algorithm_named",
    "effective_steps",
    "extended",
]

CONTROL_VARIATE = "fedmq/scaffold/c"
"""The auxiliary entry in which SCAFFOLD's server variate travels."""
_VARIATE, _GRADIENT = "scaffold/c_i", "feddyn/g_i"
ALGORITHMS = ("fedavg", "fedsgd", "fedprox", "scaffold", "feddyn", "qfedavg")
STATEFUL = frozenset({"scaffold", "feddyn"})
"""Those of which a device keeps something between its updates."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What is added to the gradient of every step.

    Args:
        correction: (n_trainable,) float32; None: nothing.
        mu: factor on parameters - received.
    """

    correction: Vector | None = None
    mu: float = 0.0


class DeviceAlgorithm(Protocol):
    """Pure: before training, after it, and what is kept then."""

    def begin(self, kept: Arrays, auxiliary: Vector, n_trainable: int) -> Adjustment:
        """Return what is added to each gradient.

        Args:
            kept: what `next_kept` returned for the last update of this device that counts; {} at first.
            auxiliary: what travelled behind the model, (n_trainable,) float32 for SCAFFOLD, else (0,).
            n_trainable: of the model.
        """

    def auxiliary_change(self, delta: Vector, auxiliary: Vector, *, n_steps: int, learning_rate: float) -> Vector:
        """Return what travels behind the delta, (n_trainable,) float32 for SCAFFOLD, else (0,); perhaps not finite.

        Args:
            delta: (n_trainable,) float32, trained - received.
            auxiliary: as for `begin`.
            n_steps: that were taken.
            learning_rate: of the client optimizer, plain SGD.
        """

    def next_kept(self, kept: Arrays, delta: Vector, change: Vector) -> dict[str, Vector]:
        """Return what is kept once the update counts; {} when nothing is.

        Args:
            kept: as for `begin`.
            delta: as the server reads it from the wire.
            change: of the auxiliary entries, as the server reads it.
        """


class Plain:
    """FedAvg, FedSGD, q-FedAvg: the gradient stays as it is."""

    def begin(self, kept: Arrays, auxiliary: Vector, n_trainable: int) -> Adjustment:
        return Adjustment()

    def auxiliary_change(self, delta: Vector, auxiliary: Vector, *, n_steps: int, learning_rate: float) -> Vector:
        return np.empty(0, np.float32)

    def next_kept(self, kept: Arrays, delta: Vector, change: Vector) -> dict[str, Vector]:
        return {}


class FedProx(Plain):
    """Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020, arXiv 1812.06127).

    Eq. 2: a device minimises F_k(w) + µ/2 ‖w - w^t‖², whose gradient is ∇F_k(w) + µ (w - w^t).

    Args:
        mu: µ >= 0; 0 is FedAvg.
    """

    def __init__(self, mu: float) -> None:
        self._mu = mu

    def begin(self, kept: Arrays, auxiliary: Vector, n_trainable: int) -> Adjustment:
        return Adjustment(mu=self._mu)


class Scaffold:
    """Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD" (ICML 2020, arXiv 1910.06378), Algorithm 1.

    Line 10: y_i <- y_i - η (g_i(y_i) + c - c_i). Line 12, option II: c_i+ = c_i - c + (x - y_i) / (K η). A device keeps
    c_i, 0 at first, and sends its change.
    """

    def begin(self, kept: Arrays, auxiliary: Vector, n_trainable: int) -> Adjustment:
        return Adjustment(auxiliary - _kept(kept, _VARIATE, n_trainable))

    def auxiliary_change(self, delta: Vector, auxiliary: Vector, *, n_steps: int, learning_rate: float) -> Vector:
        """Return c_i+ - c_i = -c - delta / (K η); without a step nothing was learned, and nothing changes."""
        if not n_steps:
            return np.zeros_like(delta)
        with np.errstate(over="ignore", invalid="ignore"):  # in float64, for K η may lie below float32's least
            return (-auxiliary - delta.astype(np.float64) / (n_steps * learning_rate)).astype(np.float32)

    def next_kept(self, kept: Arrays, delta: Vector, change: Vector) -> dict[str, Vector]:
        return {_VARIATE: _kept(kept, _VARIATE, len(change)) + change}


class FedDyn:
    """Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization".

    ICLR 2021, arXiv 2111.04263. Eq. 1: a device minimises L_k(θ) - <g_k, θ> + α/2 ‖θ - θ^{t-1}‖², where g_k is 0 at
    first, and then g_k <- g_k - α (θ_k - θ^{t-1}) (Algorithm 1). A device keeps g_k.

    Args:
        alpha: α > 0.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def begin(self, kept: Arrays, auxiliary: Vector, n_trainable: int) -> Adjustment:
        return Adjustment(-_kept(kept, _GRADIENT, n_trainable), self._alpha)

    def auxiliary_change(self, delta: Vector, auxiliary: Vector, *, n_steps: int, learning_rate: float) -> Vector:
        return np.empty(0, np.float32)

    def next_kept(self, kept: Arrays, delta: Vector, change: Vector) -> dict[str, Vector]:
        return {_GRADIENT: _kept(kept, _GRADIENT, len(delta)) - np.float32(self._alpha) * delta}


def algorithm_named(name: str, *, mu: float = 0.0, alpha: float | None = None) -> DeviceAlgorithm:
    """Return a device algorithm.

    Args:
        name: as in `training.algorithm`.
        mu: of FedProx.
        alpha: of FedDyn.

    Raises:
        ConfigError: there is none of that name, µ is negative, or α not positive.
    """
    match name:
        case "fedprox" if mu < 0:
            raise ConfigError(f"fedprox with mu = {mu:g}")
        case "fedprox":
            return FedProx(mu)
        case "scaffold":
            return Scaffold()
        case "feddyn" if alpha is not None and alpha > 0:
            return FedDyn(alpha)
        case "feddyn":
            raise ConfigError(f"feddyn with alpha = {alpha}")
        case _ if name in ALGORITHMS:
            return Plain()
    raise ConfigError(f"no algorithm {name!r}", hint=f"there are: {', '.join(ALGORITHMS)}")


def extended(spec: ParameterSpec, algorithm: str) -> ParameterSpec:
    """Return the spec of a run: the task's own, and behind it what the algorithm lets travel.

    Raises:
        ConfigError: the model uses the name, or becomes too large.
    """
    if algorithm != "scaffold":
        return spec
    return spec.with_auxiliary(CONTROL_VARIATE, int(spec.is_trainable.sum()))


def effective_steps(n_steps: int, *, learning_rate: float, mu: float) -> float:
    """Return ‖a‖₁ of what a device has summed up: how many plain steps its local progress is worth.

    Wang et al., "Tackling the Objective Inconsistency Problem" (arXiv 2007.07481), §4: plain SGD sums gradients with
    a = [1, …, 1], so that ‖a‖₁ = τ. FedProx's pull shrinks earlier ones: a = [(1 - ηµ)^(τ-1), …, 1], and ‖a‖₁ =
    (1 - (1 - ηµ)^τ) / (ηµ). By hand: τ = 2, ηµ = 0.5 is 0.5 + 1 = 1.5.

    Args:
        n_steps: τ >= 0.
        learning_rate: η.
        mu: µ >= 0, with ηµ <= 1.
    """
    pull = learning_rate * mu
    if pull <= 0 or n_steps <= 1:
        return float(n_steps)
    if pull >= 1:
        return 1.0
    return float(-np.expm1(n_steps * np.log1p(-pull)) / pull)


def _kept(kept: Mapping[str, Vector], name: str, n: int) -> Vector:
    return kept[name] if name in kept else np.zeros(n, np.float32)
