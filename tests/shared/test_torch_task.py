import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from shared.errors import ConfigError, InvalidState
from shared.parameters import ParameterSpec, delta_of
from shared.task import Arrays, Ratio, TrainingCancelled
from shared.torch_task import Batch, TorchTask
from tests.shared.torch_examples import (
    CLIENT,
    a_task,
    as_received,
    parameters_of,
    some_data,
    some_work,
    train,
)


def with_dropout() -> nn.Module:
    """A network that draws numbers while it trains."""
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def loss_at(task: TorchTask, parameters: Arrays) -> float:
    """The mean loss at these parameters."""
    evaluated = task.evaluate(parameters, CLIENT, {})
    assert evaluated is not None
    loss = evaluated.metrics["loss"]
    assert isinstance(loss, Ratio)
    return loss.numerator / loss.denominator


class Pair(NamedTuple):
    x: Tensor
    extra: dict[str, Any]


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([1])


def test_initial_parameters_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    """The same seed gives the same model, another one another, and torch's own generator does not notice."""
    before = torch.random.get_rng_state()
    first, again, other = (a_task().initial_parameters(seed).parameters["weight"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


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


def test_plain_sgd_has_the_bits_of_torchs() -> None:
    """It stands in for `torch.optim.SGD`, whose first use is dear."""
    ours = parameters_of(train(a_task(), epochs=5))
    torchs = parameters_of(train(a_task(optimizer=lambda p, rate: torch.optim.SGD(p, lr=rate)), epochs=5))
    assert all(ours[name].tobytes() == torchs[name].tobytes() for name in ours)


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


@pytest.mark.parametrize(
    ("changes", "work", "cause"),
    [
        ({"data": some_data(0)}, {}, r"train_data\('c1'\) is empty"),
        ({"data": Stream()}, {}, "Stream has no length"),
        ({}, {"algorithm": "sgd"}, "fedavg, .*fedsgd, not 'sgd'"),
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
