"""The server's part of a device algorithm: what it knows of the devices' states, and what follows for the model.

SCAFFOLD and FedDyn let each device keep a vector (`shared/algorithms.py`), and the server the mean of these. Here it
keeps their sum, in float64, over every device with an update that ever counted, so that at each version

    SCAFFOLD: N c = Σ c_i        FedDyn: N h = Σ g_k

to float32's rounding of c and of what a device keeps, whoever was refused, came late, rebooted or was never asked
again. Two things differ from the papers. Their N is the number of all devices, which here nobody knows: it is the
number of devices counted so far, or `server.population` when that is larger; both papers have every device take part
in their analysis of FedDyn and SCAFFOLD at full participation, where it is the same from the first version on. And a
device that has lost its state begins anew as one more device: its old state stays in the sum, as that of a device that
never comes back.

Pure. Not here: how updates combine (`rules/`), the server optimizer, which steps what comes out of here
(`server_optimizers/`), whose state a device goes on from (`device_states.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aggregator.device_states import Counted, names_of
from aggregator.rules import Delta
from shared.parameters import ParameterSpec, Vector

__all__ = ["AlgorithmState", "FedDynServer", "Plain", "ScaffoldServer", "ServerAlgorithm", "Stepped", "algorithm_of"]

AlgorithmState: TypeAlias = Mapping[str, NDArray[Any]]
"""What lies in the version file, by name, beside what the optimizer keeps.

algorithm/sum: (n_trainable,) float64, Σ of what devices keep. algorithm/n: () int64, of how many. algorithm/devices,
algorithm/leases: whose newest update that counts is which (`device_states.py`).
"""
SUM, N = "algorithm/sum", "algorithm/n"


class Stepped(NamedTuple):
    """What an algorithm makes of a mean.

    Args:
        delta: (n_own,) float64, for the server optimizer.
        auxiliary: (n_trainable,) float32 for SCAFFOLD, else (0,): what travels behind the model from now on.
        state: to be saved with the version.
    """

    delta: Delta
    auxiliary: Vector
    state: dict[str, NDArray[Any]]


class ServerAlgorithm(Protocol):
    """A pure pair: begin, step."""

    def init(self, spec: ParameterSpec) -> dict[str, NDArray[Any]]:
        """Return the state before the first version."""

    def step(self, state: AlgorithmState, mean: Delta, spec: ParameterSpec, counted: Sequence[Counted]) -> Stepped:
        """Take the mean of the updates that count for a version; nothing that is given is changed.

        Args:
            state: as `init` or the last `step` returned it, other names left aside.
            mean: (n_params,) float64, the plain mean of all updates, auxiliary entries behind the model's own.
            spec: of `mean`.
            counted: one for each update.
        """


class Plain:
    """FedAvg, FedSGD, FedProx, q-FedAvg: the mean is the delta."""

    def init(self, spec: ParameterSpec) -> dict[str, NDArray[Any]]:
        return {}

    def step(self, state: AlgorithmState, mean: Delta, spec: ParameterSpec, counted: Sequence[Counted]) -> Stepped:
        return Stepped(mean, np.empty(0, np.float32), {})


class ScaffoldServer:
    """Karimireddy et al., "SCAFFOLD" (ICML 2020, arXiv 1910.06378), Algorithm 1, lines 16 and 17.

    x <- x + η_g/|S| Σ Δy_i, which is the mean's way, and c <- c + 1/N Σ Δc_i, here as c = (Σ c_i) / N.

    Args:
        population: N at least.
    """

    def __init__(self, population: int | None = None) -> None:
        self._population = population

    def init(self, spec: ParameterSpec) -> dict[str, NDArray[Any]]:
        return _nothing(spec)

    def step(self, state: AlgorithmState, mean: Delta, spec: ParameterSpec, counted: Sequence[Counted]) -> Stepped:
        n_own = spec.own.n_params
        total = state[SUM] + len(counted) * mean[n_own:]
        after = _after(state, total, counted)
        with np.errstate(over="ignore"):
            c = (total / _divisor(after, self._population)).astype(np.float32)
        return Stepped(mean[:n_own], c, after)


class FedDynServer:
    """Acar et al., "Federated Learning Based on Dynamic Regularization" (ICLR 2021, arXiv 2111.04263), Algorithm 1.

    h <- h - α/N Σ (θ_k - θ), and then θ <- 1/|P| Σ θ_k - h/α: the delta is the mean of the devices' less h/α. Since a
    device's g_k moves by -α (θ_k - θ), h is the mean of all g_k. Buffers, which have no gradient, take the mean alone.

    Args:
        alpha: α > 0, the same for the whole run.
        population: N at least.
    """

    def __init__(self, alpha: float, population: int | None = None) -> None:
        self._alpha, self._population = float(np.float32(alpha)), population  # as the devices reckon

    def init(self, spec: ParameterSpec) -> dict[str, NDArray[Any]]:
        return _nothing(spec)

    def step(self, state: AlgorithmState, mean: Delta, spec: ParameterSpec, counted: Sequence[Counted]) -> Stepped:
        mask = spec.is_trainable
        total = state[SUM] - self._alpha * len(counted) * mean[mask]
        after = _after(state, total, counted)
        delta = mean.copy()
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by whoever called
            delta[mask] -= total / _divisor(after, self._population) / self._alpha
        return Stepped(delta, np.empty(0, np.float32), after)


def algorithm_of(name: str, *, alpha: float | None = None, population: int | None = None) -> ServerAlgorithm:
    """Return the server's part of `training.algorithm`."""
    match name:
        case "scaffold":
            return ScaffoldServer(population)
        case "feddyn" if alpha is not None:
            return FedDynServer(alpha, population)
    return Plain()


def _nothing(spec: ParameterSpec) -> dict[str, NDArray[Any]]:
    n_trainable = int(spec.is_trainable.sum())
    return {SUM: np.zeros(n_trainable), N: np.array(0, np.int64), **names_of({}, ())}


def _after(state: AlgorithmState, total: NDArray[np.float64], counted: Sequence[Counted]) -> dict[str, NDArray[Any]]:
    n = int(state[N]) + sum(each.begins for each in counted)
    return {SUM: total, N: np.array(n, np.int64), **names_of(state, counted)}


def _divisor(state: AlgorithmState, population: int | None) -> int:
    return max(1, int(state[N]), population or 0)
