"""What a server optimizer is: it moves the model by the aggregated delta; and what it does is looked at.

Its pseudo-gradient is −delta: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated
Optimization" (ICLR 2021, arXiv 2003.00295), Algorithm 2, of which the other files here are the lines for m_t, v_t and
the step.

An optimizer steps the trainables. Whatever it makes of anything else, `advance` gives that the mean of the devices'
values: a running variance extrapolated past the mean could turn negative, and the auxiliary entries of a device
algorithm are no parameters. One check holds every optimizer, a user's own included, to shape, dtype and finiteness, of
the model and of what it keeps.

Pure. Not here: how updates combine (`rules/`), how large the step is (`learning_rates.py`), which optimizer it is
(`choice.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aggregator.rules import BLOCK_PARAMS, Delta
from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec, Vector

__all__ = ["LOWER", "OptimizerState", "ServerOptimizer", "advance", "blocks", "kept_by", "trainable_blocks"]

OptimizerState: TypeAlias = Mapping[str, NDArray[np.float32]]
"""What an optimizer keeps between versions, by name: it lies in the version file.

float32, as the model: one rounding a version is 6e-8 of a value, no more than a device's own rounding of its delta; and
a square below float32's least, 1e-38, is nothing beside τ². Each step is computed in float64, a block at a time.
"""
_OURS = "step"
LOWER = "lower server.optimizer.learning_rate, or training.learning_rate"


class ServerOptimizer(Protocol):
    """A pure pair: begin, step."""

    def init(self, spec: ParameterSpec) -> OptimizerState:
        """Return the state before the first version."""

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        """Return the next model and the next state, in arrays of their own.

        Args:
            state: as `init` or the last `step` returned it; read-only.
            parameters: (n_params,) float32, read-only.
            delta: (n_params,) float64, as the rule returned it; read-only. In what is not trainable, what is returned
                does not matter.
            spec: whose trainables are stepped.
            learning_rate: as `LearningRates.step` gives it.
        """


def advance(
    name: str,
    optimizer: ServerOptimizer,
    saved: OptimizerState,
    parameters: Vector,
    delta: Delta,
    spec: ParameterSpec,
    learning_rate: float,
    *,
    remedy: str = LOWER,
) -> tuple[Vector, dict[str, NDArray[np.float32]]]:
    """Return the next model, and what is to be saved with it; nothing that is given is changed.

    The state of an optimizer of another name is not this one's: it begins anew, and the other's is dropped.

    Args:
        name: as in the settings.
        optimizer: that goes by it.
        saved: with the last version; what is no optimizer's stays in it.
        parameters: (n_params,) float32.
        delta: (n_params,) float64.
        spec: of both.
        learning_rate: as `LearningRates.step` gives it.
        remedy: what to change when the result is not finite.

    Raises:
        ConfigError: the optimizer raised, or what it returned is no model, or not finite: the rates are too high.
        InvalidState: model, delta and spec do not belong together.
    """
    if not len(parameters) == len(delta) == spec.n_params:
        raise InvalidState(f"{len(parameters)} parameters, {len(delta)} of delta, {spec.n_params} of the spec")
    state = kept_by(name, saved)
    try:
        before = {key: _locked(array) for key, array in (state or optimizer.init(spec)).items()}
        moved, returned = optimizer.step(before, _locked(parameters), _locked(delta), spec, learning_rate)
        after = {key: _whole(each) for key, each in returned.items()}
    except Exception as error:  # a user's own may raise anything
        raise ConfigError(
            f"server optimizer {name!r} failed with {type(error).__name__}: {error}",
            hint="init(spec) returns a dict of arrays, step(…) the next model and the next such dict",
        ) from error
    _check_form(name, moved, after, before, spec)
    if np.may_share_memory(moved, parameters) or not moved.flags.writeable:
        moved = moved.copy()
    for block in blocks(spec, is_trainable=False):
        with np.errstate(over="ignore"):  # beyond float32 is inf, and refused below
            moved[block] = parameters[block] + delta[block]
    _check_finite(name, moved, after, spec, remedy)
    others = {key: array for key, array in saved.items() if not key.startswith(f"{_OURS}/")}
    return moved, {**others, **{f"{_OURS}/{name}/{key}": array for key, array in after.items()}}


def kept_by(name: str, saved: OptimizerState) -> dict[str, NDArray[np.float32]]:
    """Return what of a version's saved state the optimizer of a name keeps; {} when it is another's, or none."""
    prefix = f"{_OURS}/{name}/"
    return {key.removeprefix(prefix): array for key, array in saved.items() if key.startswith(prefix)}


def blocks(spec: ParameterSpec, *, is_trainable: bool) -> Iterator[slice]:
    """Yield what is trainable of the flat vector, or what is not, in slices of at most BLOCK_PARAMS, in order."""
    mask = spec.is_trainable
    for entry in spec.entries:
        if entry.size and mask[entry.start] == is_trainable:
            stop = entry.start + entry.size
            for start in range(entry.start, stop, BLOCK_PARAMS):
                yield slice(start, min(start + BLOCK_PARAMS, stop))


def trainable_blocks(spec: ParameterSpec) -> Iterator[slice]:
    """Yield what an optimizer steps."""
    return blocks(spec, is_trainable=True)


def _whole(array: Any) -> Any:
    """Return NumPy's scalars, which it makes of 0-d arrays that something is added to, as the arrays they were."""
    return np.asarray(array) if isinstance(array, np.generic) else array


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_form(name: str, moved: Vector, after: OptimizerState, before: OptimizerState, spec: ParameterSpec) -> None:
    """Refuse what is no model of this spec, and a state that is not of the form it had.

    Raises:
        ConfigError: it names the optimizer and what is wrong.
    """
    if after.keys() != before.keys():
        raise ConfigError(
            f"server optimizer {name!r}: it keeps {', '.join(map(str, after))}, and kept {', '.join(before)}",
            hint="init and step return the same names; if its file has changed, give it another name",
        )
    wanted = {f"state {key!r}": (after[key], before[key].shape) for key in before}
    for what, (array, shape) in {"the next model": (moved, (spec.n_params,)), **wanted}.items():
        found = f"{getattr(array, 'dtype', type(array).__name__)}{list(np.shape(array))}"
        if type(array) is not np.ndarray or found != f"float32{list(shape)}":
            raise ConfigError(
                f"server optimizer {name!r}: {what} is {found}, not float32{list(shape)}",
                hint="step returns (model, state) of the shapes that it was given, as numpy arrays of float32",
            )


def _check_finite(name: str, moved: Vector, after: OptimizerState, spec: ParameterSpec, remedy: str) -> None:
    """Refuse what has NaN or Inf.

    Raises:
        ConfigError: it names the optimizer, the parameter, and what to change.
    """
    for what, array in [("the next model", moved), *((f"its state {key!r}", array) for key, array in after.items())]:
        flat = array.reshape(-1)
        for start in range(0, len(flat), BLOCK_PARAMS):  # the whole mask would be a large array
            if not np.isfinite(flat[start : start + BLOCK_PARAMS]).all():
                where = _parameter_in(flat, spec) if array.shape == (spec.n_params,) else "NaN or Inf"
                raise ConfigError(
                    f"server optimizer {name!r}: {what} is not finite: {where}", hint=f"the run diverges: {remedy}"
                )


def _parameter_in(flat: NDArray[np.float32], spec: ParameterSpec) -> str:
    entry = next(each for each in spec.entries if not np.isfinite(flat[each.slice]).all())
    return f"parameter {entry.names[0]!r} has NaN or Inf"
