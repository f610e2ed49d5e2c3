import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec, Role, constants_of, delta_of
from shared.task import Arrays, Client, ClientId, Initial, Ratio, Trained, TrainingCancelled, Work
from shared.torch_task import Batch, TorchTask

CLIENT = Client(id=ClientId("c1"))


def on_and_on(steps_done: int, n_steps: int, **metrics: float) -> bool:
    """There is all the time in the world."""
    return True


def some_work(**changes: Any) -> Work:
    """One epoch of fedavg in batches of four."""
    given: dict[str, Any] = {
        "round_id": 1,
        "seed": 7,
        "algorithm": "fedavg",
        "epochs": 1,
        "max_steps": None,
        "max_seconds": None,
        "batch_size": 4,
        "learning_rate": 0.1,
        "options": {},
        "state": {},
        "auxiliary": {},
        "progress": on_and_on,
    }
    return Work(**{**given, **changes})


def some_data(n: int = 10, *, dtype: torch.dtype = torch.float32, seed: int = 3) -> TensorDataset:
    """A linear relation of three inputs to one output."""
    order = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=order, dtype=torch.float64)
    return TensorDataset(x.to(dtype), (x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)).to(dtype))


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error."""
    x, y = batch
    return functional.mse_loss(model(x), y)


def linear() -> nn.Module:
    """Four parameters."""
    return nn.Linear(3, 1)


def a_task(model: Callable[[], nn.Module] = linear, data: Dataset[Any] | None = None, **changes: Any) -> TorchTask:
    """A linear regression."""
    data = some_data() if data is None else data
    given: dict[str, Any] = {"model": model, "loss": squared_error, "train_data": lambda client: data, "device": "cpu"}
    return TorchTask(**{**given, **changes})


def as_received(initial: Initial) -> Arrays:
    """Return what a client is given: the model after one way through the flat vector."""
    spec = ParameterSpec.of(initial)
    return spec.unflatten(spec.flatten(initial.parameters))


def train(task: TorchTask, **changes: Any) -> Trained:
    """Train from the initial parameters of seed 1."""
    return task.train(as_received(task.initial_parameters(1)), some_work(**changes), CLIENT)


def parameters_of(trained: Trained) -> Arrays:
    """What fedavg returned."""
    assert trained.parameters is not None
    return trained.parameters


def test_initial_parameters_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    """The same seed gives the same model, another one another, and torch's own generator does not notice."""
    before = torch.random.get_rng_state()
    first, again, other = (a_task().initial_parameters(seed).parameters["weight"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def with_dropout() -> nn.Module:
    """A network that draws numbers while it trains."""
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def test_training_twice_with_one_seed_gives_the_same_bits_and_leaves_the_generator_and_threads_alone() -> None:
    """Shuffling and dropout come from the seed of the work alone."""
    task = a_task(with_dropout)
    before, n_threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, again, other = (parameters_of(train(task, seed=seed, epochs=3)) for seed in (7, 7, 8))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert any(first[name].tobytes() != other[name].tobytes() for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == n_threads


def test_training_in_many_threads_gives_the_bits_of_one() -> None:
    """Trainings of one process run one after the other, whoever asks."""
    task = a_task(with_dropout)
    alone = parameters_of(train(task, epochs=3))["0.weight"].tobytes()
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(parameters_of(train(task, epochs=3))["0.weight"].tobytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 4


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_a_training_lowers_the_loss(algorithm: str) -> None:
    """The sign: parameters + delta is a better model than parameters, for weights and for a gradient."""
    task = a_task(test_data=lambda client: some_data())
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    received = spec.flatten(initial.parameters)
    trained = task.train(spec.unflatten(received), some_work(algorithm=algorithm, batch_size=None), CLIENT)
    rate = 0.1 if algorithm == "fedsgd" else 1.0
    moved = received + np.float32(rate) * delta_of(trained, received, spec)
    assert loss_at(task, spec.unflatten(moved)) < loss_at(task, spec.unflatten(received))


def loss_at(task: TorchTask, parameters: Arrays) -> float:
    """The mean loss at these parameters."""
    evaluated = task.evaluate(parameters, CLIENT, {})
    assert evaluated is not None
    loss = evaluated.metrics["loss"]
    assert isinstance(loss, Ratio)
    return loss.numerator / loss.denominator


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_models_of_every_float_train_and_return_as_they_were(dtype: torch.dtype, algorithm: str) -> None:
    """float64 and float16 keep their dtype for the user; bfloat16, which numpy lacks, is float32 outside."""
    task = a_task(lambda: nn.Linear(3, 1, dtype=dtype), some_data(dtype=dtype))
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    expected = "float32" if dtype is torch.bfloat16 else str(dtype).removeprefix("torch.")
    assert {entry.dtype for entry in spec.entries} == {expected}
    received = spec.flatten(initial.parameters)
    trained = task.train(spec.unflatten(received), some_work(algorithm=algorithm, batch_size=None), CLIENT)
    delta = delta_of(trained, received, spec)
    assert np.abs(delta).max() > 0
    assert delta.dtype == np.float32


def test_bfloat16_values_survive_the_way_out_and_back() -> None:
    """Every bfloat16 is a float32, so nothing is lost on the way."""
    task = a_task(lambda: nn.Linear(3, 1, dtype=torch.bfloat16), some_data(dtype=torch.bfloat16))
    initial = task.initial_parameters(1)
    still = train(task, learning_rate=0.0)
    assert all(np.array_equal(parameters_of(still)[name], array) for name, array in initial.parameters.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_the_models_dtype_is_no_part_of_a_delta(dtype: torch.dtype) -> None:
    """The server's float32 model may lie between two 16-bit numbers: a device that learns nothing leaves it there."""
    task = a_task(lambda: nn.Linear(3, 1, dtype=dtype), some_data(dtype=dtype))
    spec = ParameterSpec.of(task.initial_parameters(1))
    between = np.full(spec.n_params, 1.00001, dtype=np.float32)
    still = task.train(spec.unflatten(between), some_work(learning_rate=0.0), CLIENT)
    assert not delta_of(still, between, spec).any()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.second(torch.tanh(self.first(x))))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_tied_weights_travel_once_and_stay_tied(dtype: torch.dtype, algorithm: str) -> None:
    """Two names of one memory are one entry, and both names carry the same trained values."""
    task = a_task(lambda: Tied().to(dtype), some_data(dtype=dtype))
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    assert spec.entries[0].names == ("first.weight", "second.weight")
    assert spec.n_params == 9 + 3 + 1
    received = spec.flatten(initial.parameters)
    trained = task.train(spec.unflatten(received), some_work(algorithm=algorithm), CLIENT)
    assert np.abs(delta_of(trained, received, spec)[:9]).min() > 0
    if trained.parameters is not None:
        assert np.array_equal(trained.parameters["first.weight"], trained.parameters["second.weight"])


def with_batch_norm() -> nn.Module:
    """A network with statistics."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def test_batch_norm_statistics_are_buffers_and_their_counter_stays_the_servers() -> None:
    """Running mean and variance are averaged, the integer counter does not travel."""
    initial = a_task(with_batch_norm).initial_parameters(1)
    assert initial.buffers == {"1.running_mean", "1.running_var"}
    assert set(constants_of(initial)) == {"1.num_batches_tracked"}
    roles = {entry.names[0]: entry.role for entry in ParameterSpec.of(initial).entries}
    assert roles["1.running_var"] is Role.BUFFER
    assert roles["1.weight"] is Role.TRAINABLE
    assert "1.num_batches_tracked" not in roles


@pytest.mark.parametrize(("n", "batch_size"), [(9, 4), (5, 4), (2, 1), (3, 2), (1, 4), (1, None)])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_batch_norm_trains_whatever_the_last_batch_is(n: int, batch_size: int | None, algorithm: str) -> None:
    """A last batch of one example, batches of one and a shard of one example all train, and stay finite."""
    task = a_task(with_batch_norm, some_data(n))
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    received = spec.flatten(initial.parameters)
    work = some_work(batch_size=batch_size, algorithm=algorithm)
    trained = task.train(spec.unflatten(received), work, CLIENT)
    assert np.abs(delta_of(trained, received, spec)).max() > 0
    assert trained.num_examples == n


def test_batch_norm_statistics_move_with_batches_and_stand_still_for_single_examples() -> None:
    """One example has no variance: it must not move the running statistics."""
    moved = parameters_of(train(a_task(with_batch_norm, some_data(9))))["1.running_var"]
    still = parameters_of(train(a_task(with_batch_norm, some_data(1))))["1.running_var"]
    assert not np.array_equal(moved, np.ones(4, np.float32))
    assert np.array_equal(still, np.ones(4, np.float32))


def test_a_single_last_example_joins_the_batch_before_it_only_for_batch_norm() -> None:
    """9 examples in batches of 4 are 4, 5 with batch norm, and 4, 4, 1 without."""
    assert train(a_task(with_batch_norm, some_data(9))).n_steps == 2
    assert train(a_task(linear, some_data(9))).n_steps == 3


def test_a_model_of_one_parameter_trains() -> None:
    """A scalar is a model too."""

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.w * x

    x = torch.arange(1.0, 5.0)
    task = a_task(Scalar, TensorDataset(x, 2 * x))
    trained = train(task, epochs=50, learning_rate=0.05)
    assert parameters_of(trained)["w"].shape == ()
    assert parameters_of(trained)["w"] == pytest.approx(2.0, abs=1e-3)


def test_gradients_over_pieces_equal_the_gradient_of_the_whole() -> None:
    """By hand: loss (w - x)^2 over x = 1, 2, 6 at w = 0 has the mean gradient -2 * (1 + 2 + 6) / 3 = -6."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(model.w, Tensor)
        return functional.mse_loss(model.w.expand_as(batch[0]), batch[0])

    task = a_task(Constant, TensorDataset(torch.tensor([1.0, 2.0, 6.0])), loss=loss)
    for batch_size in (None, 1, 2):
        trained = train(task, algorithm="fedsgd", batch_size=batch_size)
        assert trained.gradient is not None
        assert trained.gradient["w"].tolist() == pytest.approx([-6.0])
        assert trained.n_steps == 1


def test_fedavg_of_max_steps_takes_exactly_so_many_over_several_epochs() -> None:
    """`max_steps` ends in mid-epoch; progress counts each step of all."""
    seen: list[tuple[int, int]] = []

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        seen.append((steps_done, n_steps))
        assert metrics["loss"] >= 0
        return True

    trained = train(a_task(), epochs=None, max_steps=7, progress=progress)
    assert trained.n_steps == 7
    assert seen == [(step, 7) for step in range(1, 8)]


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_training_stops_when_progress_says_so(algorithm: str) -> None:
    """A False is the last batch; fedsgd then says how many examples its gradient covers."""
    trained = train(a_task(), algorithm=algorithm, batch_size=4, progress=lambda done, n, **_: done < 2)
    assert trained.n_steps == (2 if algorithm == "fedavg" else 1)
    assert trained.num_examples == (10 if algorithm == "fedavg" else 8)
    loss = trained.metrics["loss"]
    assert isinstance(loss, Ratio)
    assert loss.denominator == 8


def test_cancelling_passes_through_and_leaves_torch_as_it_was() -> None:
    """After `TrainingCancelled` the next training runs as if nothing had been."""

    def cancel(steps_done: int, n_steps: int, **metrics: float) -> bool:
        raise TrainingCancelled

    before, n_threads = torch.random.get_rng_state(), torch.get_num_threads()
    with pytest.raises(TrainingCancelled):
        train(a_task(), progress=cancel)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == n_threads
    assert train(a_task()).n_steps == 3


class Pair(NamedTuple):
    x: Tensor
    extra: dict[str, Any]


def test_batches_of_any_structure_arrive_as_they_were_collated() -> None:
    """Named tuples, dicts, lists and things that are no tensors pass through `collate` and on to the loss."""

    def collate(examples: list[Any]) -> Pair:
        x, y = torch.stack([e[0] for e in examples]), torch.stack([e[1] for e in examples])
        return Pair(x=x, extra={"y": [y], "note": "kept"})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(batch, Pair)
        assert batch.extra["note"] == "kept"
        return functional.mse_loss(model(batch.x), batch.extra["y"][0])

    structured = parameters_of(train(a_task(loss=loss, collate=collate)))
    plain = parameters_of(train(a_task()))
    assert np.array_equal(structured["weight"], plain["weight"])


def body_and_head() -> nn.Module:
    """A network of which parts may be personal."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_personal_entries_never_travel_and_are_taken_from_the_state(algorithm: str) -> None:
    """They are in no message, are trained, and go on from where the last accepted training left them."""
    task = a_task(body_and_head, personal=["1.*", "2.weight"], test_data=lambda client: some_data())
    initial = task.initial_parameters(1)
    assert set(initial.parameters) == {"0.weight", "0.bias", "2.bias"}
    assert initial.buffers == frozenset()
    received = as_received(initial)
    first = task.train(received, some_work(algorithm=algorithm), CLIENT)
    sent = first.parameters if first.parameters is not None else first.gradient
    assert sent is not None
    assert set(sent) == set(initial.parameters)
    assert {"1.weight", "1.running_mean", "1.num_batches_tracked", "2.weight"} <= set(first.state)
    still = task.train(received, some_work(learning_rate=1e-30, state=first.state), CLIENT)
    assert np.array_equal(still.state["2.weight"], first.state["2.weight"])
    fresh = task.train(received, some_work(learning_rate=1e-30), CLIENT)
    assert not np.array_equal(fresh.state["2.weight"], first.state["2.weight"])
    with_state, without = (task.evaluate(received, CLIENT, state) for state in (first.state, {}))
    assert with_state is not None
    assert without is not None
    assert with_state.metrics != without.metrics


def test_a_personal_pattern_that_matches_nothing_is_refused() -> None:
    """A typing mistake there would send what must not travel."""
    with pytest.raises(ConfigError, match=r"'haed\.\*' matches no entry"):
        a_task(personal=["haed.*"]).initial_parameters(1)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_the_gradient_norm_is_bounded(algorithm: str) -> None:
    """One step at rate 1 moves the model by at most `max_gradient_norm`."""
    task = a_task(max_gradient_norm=0.01)
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    received = spec.flatten(initial.parameters)
    work = some_work(algorithm=algorithm, batch_size=None, learning_rate=1.0)
    delta = delta_of(task.train(spec.unflatten(received), work, CLIENT), received, spec)
    assert np.linalg.norm(delta) == pytest.approx(0.01, rel=1e-3)


def half_frozen() -> nn.Module:
    """A network whose first layer does not learn."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model[0].requires_grad_(requires_grad=False)
    return model


@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_frozen_and_unused_parameters_stay_as_they_are(algorithm: str) -> None:
    """What needs no gradient, or gets none, has a delta of nothing."""

    class WithSpare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = half_frozen(), nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

    task = a_task(WithSpare)
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    received = spec.flatten(initial.parameters)
    delta = spec.unflatten(
        delta_of(task.train(spec.unflatten(received), some_work(algorithm=algorithm), CLIENT), received, spec)
    )
    assert not delta["net.0.weight"].any()
    assert not delta["spare"].any()
    assert delta["net.1.weight"].all()


def test_a_client_optimizer_of_the_users_own_is_used() -> None:
    """It gets the parameters and the rate of the work."""
    rates: list[float] = []

    def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
        rates.append(learning_rate)
        return torch.optim.Adam(parameters, lr=learning_rate)

    with_adam = parameters_of(train(a_task(optimizer=adam), learning_rate=0.03))
    assert rates == [0.03]
    assert not np.array_equal(with_adam["weight"], parameters_of(train(a_task(), learning_rate=0.03))["weight"])


def test_evaluation_sums_ratios_over_batches_and_adds_the_loss() -> None:
    """600 examples in batches of 256: the accuracy is that of the whole, to the last example."""
    x = torch.arange(600.0).reshape(-1, 1)
    data = TensorDataset(x, x)

    def metrics(model: nn.Module, batch: Batch) -> dict[str, Ratio]:
        return {"small": Ratio(float((batch[0] < 100).sum()), len(batch[0]))}

    task = a_task(lambda: nn.Linear(1, 1), data, metrics=metrics, test_data=lambda client: data)
    evaluated = task.evaluate(as_received(task.initial_parameters(1)), None, {})
    assert evaluated is not None
    assert evaluated.num_examples == 600
    assert evaluated.metrics["small"] == Ratio(100, 600)
    assert set(evaluated.metrics) == {"small", "loss"}


def test_evaluation_without_data_is_none() -> None:
    """No dataset, and an empty one, both mean: nothing to evaluate here."""
    parameters = as_received(a_task().initial_parameters(1))
    assert a_task().evaluate(parameters, None, {}) is None
    assert a_task(test_data=lambda client: some_data(0)).evaluate(parameters, CLIENT, {}) is None


def test_a_metric_that_is_no_ratio_is_refused() -> None:
    """Means of means are wrong, so a plain number is not taken."""
    task = a_task(test_data=lambda client: some_data(), metrics=lambda model, batch: {"accuracy": 0.5})
    with pytest.raises(ConfigError, match="'accuracy' is a float, not a Ratio"):
        task.evaluate(as_received(task.initial_parameters(1)), CLIENT, {})


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([1])


@pytest.mark.parametrize(
    ("changes", "work", "cause"),
    [
        ({"data": some_data(0)}, {}, r"train_data\('c1'\) is empty"),
        ({"data": Stream()}, {}, "Stream has no length"),
        ({}, {"algorithm": "scaffold"}, "fedavg and fedsgd, not 'scaffold'"),
    ],
)
def test_training_that_cannot_be_says_why(changes: dict[str, Any], work: dict[str, Any], cause: str) -> None:
    """An empty shard, data without a length and an unknown algorithm are named."""
    with pytest.raises(ConfigError, match=cause):
        train(a_task(**changes), **work)


@pytest.mark.parametrize("given", [{"bias": np.zeros(1)}, {"bias": np.zeros(1), "weight": np.zeros((1, 1))}])
def test_parameters_that_do_not_fit_the_model_are_refused(given: Arrays) -> None:
    """A missing name, and a shape that torch would broadcast, never reach the model."""
    with pytest.raises(InvalidState, match="'weight'"):
        a_task().train(given, some_work(), CLIENT)


def test_an_impossible_gradient_bound_is_refused() -> None:
    """A bound of nothing would never move."""
    with pytest.raises(ConfigError, match="max_gradient_norm"):
        a_task(max_gradient_norm=0.0)


def test_received_arrays_are_never_written_to() -> None:
    """Read-only arrays train as well as any."""
    task = a_task()
    received = as_received(task.initial_parameters(1))
    for array in received.values():
        array.flags.writeable = False
    before = {name: array.copy() for name, array in received.items()}
    task.train(received, some_work(), CLIENT)
    assert all(np.array_equal(received[name], before[name]) for name in before)
