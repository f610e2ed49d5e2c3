"""What holds for every server optimizer: buffers take the mean, state has an owner, nonsense is refused by name."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.rules import BLOCK_PARAMS, Delta
from aggregator.server_optimizers import (
    Adagrad,
    Adam,
    FedAvgM,
    OptimizerState,
    ServerOptimizer,
    Sgd,
    Yogi,
    advance,
)
from aggregator.server_optimizers.optimizer import blocks
from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec, Vector
from shared.task import Initial

ALL: list[ServerOptimizer] = [Sgd(), FedAvgM(), Adagrad(beta_1=0.5), Adam(), Yogi()]
F32 = NDArray[np.float32]


def a_spec(n_trainable: int = 2, n_buffer: int = 1) -> ParameterSpec:
    """Return weights first, then a running variance, then an offset."""
    parameters = {
        "weight": np.zeros(n_trainable, np.float32),
        "running_var": np.zeros(n_buffer, np.float32),
        "offset": np.zeros((), np.float32),
    }
    return ParameterSpec.of(Initial(parameters, buffers=frozenset({"running_var"})))


def some_numbers(spec: ParameterSpec, seed: int = 1) -> tuple[Vector, Delta]:
    """Return a model and a delta."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(spec.n_params, dtype=np.float32), rng.standard_normal(spec.n_params)


class Mine:
    """An optimizer of a user's own, that does what a test says."""

    def __init__(self, step: Callable[..., Any], **state: Any) -> None:
        self._step, self._state = step, state

    def init(self, spec: ParameterSpec) -> OptimizerState:
        """See `ServerOptimizer`."""
        return self._state

    def step(
        self, state: OptimizerState, parameters: Vector, delta: Delta, spec: ParameterSpec, learning_rate: float
    ) -> tuple[Vector, OptimizerState]:
        """See `ServerOptimizer`."""
        found: tuple[Vector, OptimizerState] = self._step(state, parameters, delta)
        return found


def advanced(
    optimizer: ServerOptimizer, saved: OptimizerState | None = None, *, name: str = "mine:it", value: float = 1.0
) -> tuple[Vector, dict[str, F32]]:
    """Step from a model of zeros by a delta whose first value is given, the others 1."""
    spec = a_spec()
    delta = np.array([value, 1.0, 1.0, 1.0])
    return advance(name, optimizer, saved or {}, np.zeros(4, np.float32), delta, spec, 0.5)


@pytest.mark.parametrize("optimizer", ALL, ids=lambda each: type(each).__name__)
def test_buffers_take_the_mean_whatever_the_optimizer(optimizer: ServerOptimizer) -> None:
    """At a rate of 10 and over three versions: running_var moves by its delta each time, to the bit; weights do not."""
    spec = a_spec(70_000, 40_000)
    saved: OptimizerState = {}
    model, delta = some_numbers(spec)
    buffer = next(entry.slice for entry in spec.entries if entry.names == ("running_var",))
    for _ in range(3):
        expected = (model + delta).astype(np.float32)
        model, saved = advance("x", optimizer, saved, model, delta, spec, 10.0)
        assert model[buffer].tobytes() == expected[buffer].tobytes()
        assert not np.allclose(model[: buffer.start], expected[: buffer.start])


@pytest.mark.parametrize("optimizer", ALL, ids=lambda each: type(each).__name__)
def test_step_in_blocks_is_the_step_of_each_part_alone(optimizer: ServerOptimizer) -> None:
    """A model longer than two blocks moves as two models of its halves do: to the bit, state too."""
    n = 2 * BLOCK_PARAMS + 5
    whole, half = a_spec(n, 7), a_spec(BLOCK_PARAMS - 3, 1)
    model, delta = some_numbers(whole)
    start = BLOCK_PARAMS // 2  # across a border of blocks
    part = slice(start, start + half.n_params)
    one: OptimizerState = {}
    two: OptimizerState = {}
    ours, theirs = model, model[part].copy()
    for _ in range(2):
        ours, one = advance("x", optimizer, one, ours, delta, whole, 0.3)
        theirs, two = advance("x", optimizer, two, theirs, delta[part], half, 0.3)
    n_weights = BLOCK_PARAMS - 3
    assert ours[part][:n_weights].tobytes() == theirs[:n_weights].tobytes()
    for key in one:
        assert one[key][part][:n_weights].tobytes() == two[key][:n_weights].tobytes()


@pytest.mark.parametrize("optimizer", ALL, ids=lambda each: type(each).__name__)
def test_step_leaves_its_arguments_as_they_were(optimizer: ServerOptimizer) -> None:
    """A step that fails afterwards can be taken again, to the same bits."""
    spec = a_spec()
    model, delta = some_numbers(spec)
    _, saved = advance("x", optimizer, {}, model, delta, spec, 0.5)
    arrays: list[NDArray[Any]] = [model, delta, *saved.values()]
    given = [array.tobytes() for array in arrays]
    one = advance("x", optimizer, saved, model, delta, spec, 0.5)
    two = advance("x", optimizer, saved, model, delta, spec, 0.5)
    assert [array.tobytes() for array in arrays] == given
    assert one[0].tobytes() == two[0].tobytes()
    assert {key: array.tobytes() for key, array in one[1].items()} == {key: a.tobytes() for key, a in two[1].items()}


@pytest.mark.parametrize("optimizer", ALL, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_model_or_state_that_is_not_finite_is_refused(optimizer: ServerOptimizer, value: float) -> None:
    """Optimizer, parameter and what to lower are named. Adaptive steps by 1e300 are short, but their state is not."""
    with pytest.raises(ConfigError, match=r"(?s)'mine:it'.*'weight' has NaN or Inf.*server.optimizer.learning_rate"):
        advanced(optimizer, value=value)


@pytest.mark.parametrize("optimizer", ALL, ids=lambda each: type(each).__name__)
def test_step_takes_no_memory_but_for_what_it_returns(optimizer: ServerOptimizer) -> None:
    """A million parameters: at the peak, model and state once more, and a few blocks; another array would be 4 MB."""
    spec = a_spec(1_000_000)
    model, delta = some_numbers(spec)
    _, saved = advance("x", optimizer, {}, model, delta, spec, 0.1)
    tracemalloc.start()
    try:
        moved, after = advance("x", optimizer, saved, model, delta, spec, 0.1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    returned = moved.nbytes + sum(array.nbytes for array in after.values())
    assert returned <= peak < returned + 10 * 8 * BLOCK_PARAMS


def test_state_that_is_no_vector_of_the_model_is_looked_at_too() -> None:
    """A user's own counter that has become Inf."""
    step = lambda state, model, delta: (model.copy(), {"n": np.array(np.inf, np.float32)})  # noqa: E731
    with pytest.raises(ConfigError, match=r"'mine:it'.*state 'n' is not finite"):
        advanced(Mine(step, n=np.array(0, np.float32)))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda state, model, delta: (model[:1], {}), r"the next model is float32\[1\], not float32\[4\]"),
        (lambda state, model, delta: (model + delta, {}), r"the next model is float64\[4\], not float32\[4\]"),
        (lambda state, model, delta: ([0.0] * 4, {}), r"the next model is list\[4\]"),
        (lambda state, model, delta: (None, {}), "the next model is NoneType"),
        (lambda state, model, delta: (model.copy(), {"v": delta}), "it keeps v, and kept "),
        (lambda state, model, delta: model.copy(), "failed with ValueError: too many values to unpack"),
        (lambda state, model, delta: 1 / 0, "failed with ZeroDivisionError"),
        (lambda state, model, delta: model.__iadd__(1.0), "failed with ValueError.*read-only"),
        (lambda state, model, delta: delta.__iadd__(1.0), "failed with ValueError.*read-only"),
    ],
)
def test_what_is_no_step_is_refused_by_name(step: Callable[..., Any], said: str) -> None:
    """A user's own optimizer is told what it did, and none of it reaches the model."""
    with pytest.raises(ConfigError, match=f"(?s)server optimizer 'mine:it'.*{said}"):
        advanced(Mine(step))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"v": np.zeros(3, np.float32)}, r"state 'v' is float32\[3\], not float32\[4\]"),
        ({"v": np.zeros(4)}, r"state 'v' is float64\[4\], not float32\[4\]"),
        ({}, "it keeps , and kept v"),
    ],
)
def test_state_of_another_form_is_refused(after: dict[str, Any], said: str) -> None:
    """It could not be saved, or not be gone on with."""
    with pytest.raises(ConfigError, match=said):
        advanced(Mine(lambda state, model, delta: (model.copy(), after), v=np.zeros(4, np.float32)))


def test_counter_may_become_a_numpy_scalar() -> None:
    """As `state["n"] + 1` makes it: it is saved as the array that it was."""
    step = lambda state, model, delta: (model.copy(), {"n": state["n"] + np.float32(1)})  # noqa: E731
    _, saved = advanced(Mine(step, n=np.array(1, np.float32)))
    assert type(saved["step/mine:it/n"]) is np.ndarray
    assert (saved["step/mine:it/n"].shape, float(saved["step/mine:it/n"])) == ((), 2.0)


def test_own_optimizer_need_not_know_of_buffers() -> None:
    """It may return the very array that it was given, and that stays as it was."""
    model = np.ones(4, np.float32)
    mine = Mine(lambda state, given, delta: (given, {}))
    moved, _ = advance("x", mine, {}, model, np.array([1.0, 2.0, 3.0, 4.0]), a_spec(), 1.0)
    assert moved.tolist() == [1.0, 1.0, 4.0, 1.0]
    assert model.tolist() == [1.0] * 4


def test_state_belongs_to_the_optimizer_of_its_name() -> None:
    """Another name begins anew, and what is no optimizer's stays."""
    foreign = {"feddyn/h": np.ones(4, np.float32)}
    _, saved = advanced(FedAvgM(), foreign, name="fedavgm")
    assert set(saved) == {"feddyn/h", "step/fedavgm/v"}
    _, again = advanced(FedAvgM(), saved, name="fedavgm")
    assert again["step/fedavgm/v"][0] == pytest.approx(1.9)
    _, other = advanced(Adam(), saved, name="adam")
    assert set(other) == {"feddyn/h", "step/adam/m", "step/adam/v"}
    _, none = advanced(Sgd(), other, name="sgd")
    assert none == foreign


def test_step_of_another_length_is_refused() -> None:
    """A delta of another model is a mistake of ours."""
    with pytest.raises(InvalidState):
        advance("sgd", Sgd(), {}, np.zeros(4, np.float32), np.zeros(2), a_spec(), 1.0)


def test_blocks_divide_the_model_between_what_is_stepped_and_what_is_not() -> None:
    """Every parameter is in exactly one block of one of the two, and no block is too long."""
    spec = a_spec(BLOCK_PARAMS + 9, BLOCK_PARAMS + 1)
    seen = np.zeros(spec.n_params, int)
    for is_trainable in (True, False):
        for block in blocks(spec, is_trainable=is_trainable):
            assert 0 < block.stop - block.start <= BLOCK_PARAMS
            assert (spec.is_trainable[block] == is_trainable).all()
            seen[block] += 1
    assert (seen == 1).all()
