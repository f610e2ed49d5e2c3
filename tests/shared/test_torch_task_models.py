import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Role, constants_of, delta_of
from tests.shared.torch_examples import CLIENT, a_task, as_received, linear, parameters_of, some_data, some_work, train


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


def with_batch_norm() -> nn.Module:
    """A network with statistics."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def body_and_head() -> nn.Module:
    """A network of which parts may be personal."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def half_frozen() -> nn.Module:
    """A network whose first layer does not learn."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model[0].requires_grad_(requires_grad=False)
    return model


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
