"""Server optimizers with a rate for each parameter: Adagrad, Adam, Yogi.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization" (ICLR 2021, arXiv
2003.00295), Algorithm 2, with Δ the aggregated delta:

    m ← β₁ m + (1 − β₁) Δ
    v ← v + Δ²                            FedAdagrad
    v ← β₂ v + (1 − β₂) Δ²                FedAdam
    v ← v − (1 − β₂) Δ² sign(v − Δ²)      FedYogi
    w ← w + η m / (√v + τ)

There is no correction of bias, as there is none in the paper; so Adam's first steps are small for m, which starts at 0.
The paper asks for v₋₁ ≥ τ²; here it is τ², the least that it allows. Its defaults: β₁ = 0.9 (0 for Adagrad), β₂ = 0.99,
τ = 1e-3.

Choose one of these when parameters see deltas of very different size: rare words, features that few devices have. Adam
forgets old deltas; Yogi forgets them slowly where deltas shrink, so that it does not grow its steps at once; Adagrad
never forgets, so its steps only shrink, and it needs no β₂. τ says how adaptive they are: a parameter whose deltas lie
far below τ moves by η m/τ, as with momentum; above it by about η, whatever the size. η is therefore a length a version
in each parameter, not a factor on the mean, and is smaller than 1.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.rules import Delta
from aggregator.server_optimizers.optimizer import OptimizerState, trainable_blocks
from shared.parameters import ParameterSpec, Vector

__all__ = ["Adagrad", "Adam", "Yogi"]

_F64 = NDArray[np.float64]


class _SecondMoment(Protocol):
    def __call__(self, v: _F64, squares: _F64) -> _F64:
        """Return the next v from the last one and Δ²: a block of each, float64."""


class _Adaptive:
    """What the three have in common."""

    def __init__(self, second_moment: _SecondMoment, *, beta_1: float, tau: float) -> None:
        self._second_moment, self._beta_1, self._tau = second_moment, beta_1, tau

    def init(self, spec: ParameterSpec) -> OptimizerState:
        """Return {"m": (n_params,) zeros, "v": (n_params,) τ²}."""
        m = np.zeros(spec.n_params, dtype=np.float32)
        return {"m": m, "v": np.full(spec.n_params, self._tau**2, dtype=np.float32)}

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        old_m, old_v = state["m"], state["v"]
        moved, m, v = (np.zeros(spec.n_params, dtype=np.float32) for _ in range(3))
        with np.errstate(all="ignore"):  # what is not finite is refused by whoever called
            for block in trainable_blocks(spec):
                first = self._beta_1 * old_m[block].astype(np.float64) + (1 - self._beta_1) * delta[block]
                second = self._second_moment(old_v[block].astype(np.float64), np.square(delta[block]))
                m[block], v[block] = first, second
                moved[block] = parameters[block] + learning_rate * first / (np.sqrt(second) + self._tau)
        return moved, {"m": m, "v": v}


class Adagrad(_Adaptive):
    """FedAdagrad.

    Args:
        beta_1: β₁ in [0, 1).
        tau: τ > 0.
    """

    def __init__(self, *, beta_1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(lambda v, squares: v + squares, beta_1=beta_1, tau=tau)


class Adam(_Adaptive):
    """FedAdam.

    Args:
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        tau: τ > 0.
    """

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(lambda v, squares: beta_2 * v + (1 - beta_2) * squares, beta_1=beta_1, tau=tau)


class Yogi(_Adaptive):
    """FedYogi.

    Args:
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        tau: τ > 0.
    """

    def __init__(self, *, beta_1: float = 0.9, beta_2: float = 0.99, tau: float = 1e-3) -> None:
        def second_moment(v: _F64, squares: _F64) -> _F64:
            return v - (1 - beta_2) * squares * np.sign(v - squares)

        super().__init__(second_moment, beta_1=beta_1, tau=tau)
