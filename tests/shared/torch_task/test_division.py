from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from shared.errors import ConfigError
from shared.parameters import ParameterSpec, Role, constants_of, delta_of
from shared.task import Trained
from shared.torch_task import TorchTask, norm_layers
from shared.torch_task.division import BASE
from tests.shared.torch_examples import CLIENT, a_task, as_received, parameters_of, some_data, some_work, train


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter, y = (W + B A) x + b, and a batch norm before it.

    Args:
        scale: of the base, which a device might have another of.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.base = nn.Linear(3, 1)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.zeros(1, 2))
        with torch.no_grad():
            self.base.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 1)."""
        out: Tensor = self.base(self.norm(x)) + self.norm(x) @ (self.lora_b @ self.lora_a).T
        return out


class BodyAndHead(nn.Module):
    """Three inputs to four features to one output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 1)."""
        out: Tensor = self.head(self.norm(self.body(x)))
        return out


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


BODY = {"body.weight", "body.bias"}
HEAD = {"head.weight", "head.bias"}
NORM = {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
BOTH_ALGORITHMS = pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])


def sent(trained: Trained) -> set[str]:
    """Names of what an update is made of."""
    update = trained.parameters if trained.parameters is not None else trained.gradient
    assert update is not None
    return set(update)


def adapters(scale: float = 1.0, **changes: Any) -> TorchTask:
    """A task of which only adapters travel."""
    return a_task(lambda: Adapted(scale), shared=["lora_*"], **changes)


@BOTH_ALGORITHMS
def test_only_adapters_travel_and_the_base_stays_as_it_was_built(algorithm: str) -> None:
    """Neither weights nor statistics of the base move, on any client; the adapters learn."""
    task = adapters()
    initial = task.initial_parameters(1)
    spec = ParameterSpec.of(initial)
    assert [e.names[0] for e in spec.entries if e.size] == ["lora_a", "lora_b"]
    assert not constants_of(initial)
    received = spec.flatten(initial.parameters)
    models: list[nn.Module] = []

    def watched() -> nn.Module:
        models.append(Adapted())
        return models[-1]

    trained = a_task(watched, shared=["lora_*"]).train(
        spec.unflatten(received), some_work(algorithm=algorithm, epochs=5), CLIENT
    )
    assert np.abs(delta_of(trained, received, spec)).max() > 0
    assert trained.state == {}
    torch.manual_seed(0)
    fresh, used = Adapted().state_dict(), models[-1].state_dict()
    for name in ("base.weight", "base.bias", "norm.weight", "norm.running_mean", "norm.running_var"):
        assert torch.equal(used[name], fresh[name]), name
    assert used["norm.num_batches_tracked"] == 0


def test_gradient_of_adapters_worked_by_hand() -> None:
    """One example x = (1, 0, 0), y = 0, base 0, B = 0: the error is 0, so nothing moves; with y = −1, dB = 2 A x."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Parameter(torch.zeros(1, 3))
            self.lora_a, self.lora_b = nn.Parameter(torch.tensor([[3.0, 0.0, 0.0]])), nn.Parameter(torch.zeros(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.base + self.lora_b @ self.lora_a).T

    data = TensorDataset(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[-1.0]]))
    gradient = train(a_task(Plain, data, shared=["lora_*"]), algorithm="fedsgd").gradient
    assert gradient is not None
    assert gradient["lora_b"].tolist() == [[6.0]]
    assert gradient["lora_a"].tolist() == [[0.0, 0.0, 0.0]]


def test_another_base_is_another_model_and_the_same_one_is_not() -> None:
    """The spec, which both sides compare before a training, has the digest of every bit of it; no seed changes it."""
    ours, again, other = (
        ParameterSpec.of(adapters(scale).initial_parameters(seed))
        for scale, seed in ((1.0, 1), (1.0, 2), (1.0000001, 1))
    )
    assert ours.digest == again.digest
    assert ours.digest != other.digest
    assert BASE in ours.difference(other)
    assert ours.entries[-1].role is Role.BUFFER
    assert (ours.entries[-1].size, ours.n_params) == (0, other.n_params)


def test_adapters_beside_a_personal_head_each_have_their_place() -> None:
    """Adapters travel, the bias is the client's, the rest is the base."""
    task = adapters(personal=["base.bias"])
    assert {name for name in task.initial_parameters(1).parameters if not name.startswith(BASE)} == {"lora_a", "lora_b"}
    trained = train(task, epochs=3)
    assert set(trained.state) == {"base.bias"}
    start = train(task, epochs=3, learning_rate=1e-30).state["base.bias"]
    assert not np.array_equal(trained.state["base.bias"], start)


def test_evaluation_is_of_base_and_adapters() -> None:
    """On the server and on a client alike: both build the base under one seed."""
    task = adapters(test_data=lambda client: some_data())
    received = as_received(task.initial_parameters(1))
    central, on_client = task.evaluate(received, None, {}), task.evaluate(received, CLIENT, {})
    assert central == on_client
    trained = parameters_of(task.train(received, some_work(epochs=20), CLIENT))
    after = task.evaluate(trained, None, {})
    assert central is not None
    assert after is not None
    before_loss, loss = (each.metrics["loss"] for each in (central, after))
    assert isinstance(loss, tuple)
    assert isinstance(before_loss, tuple)
    assert loss[0] < before_loss[0] / 2


@BOTH_ALGORITHMS
def test_norm_layers_stay_on_the_client_with_their_statistics(algorithm: str) -> None:
    """FedBN by one word; of the other layers all travels."""
    task = a_task(BodyAndHead, personal=norm_layers)
    initial = task.initial_parameters(1)
    assert set(initial.parameters) == BODY | HEAD
    assert initial.buffers == frozenset()
    trained = train(task, algorithm=algorithm)
    assert set(trained.state) == NORM | {"norm.num_batches_tracked"}
    assert sent(trained) == BODY | HEAD
    moves = algorithm == "fedavg"  # fedsgd measures by fixed statistics
    assert bool(np.any(trained.state["norm.running_mean"])) is moves


def test_norm_layers_of_every_kind_are_found_and_nothing_else() -> None:
    """By their place in the model, whatever they are called; a model that is one is one."""
    layers = [nn.Linear(4, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4), nn.InstanceNorm1d(4), nn.ReLU()]
    assert norm_layers(nn.Sequential(*layers)) == ["1.*", "2.*", "3.*", "4.*"]
    assert norm_layers(nn.LayerNorm(4)) == ["*"]
    with pytest.raises(ConfigError, match="no norm layer"):
        norm_layers(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("model", "changes", "cause", "hint"),
    [
        (BodyAndHead, {"personal": ["haed.*"]}, r"personal 'haed\.\*' matches no entry", r"head\.\*"),
        (BodyAndHead, {"personal": ["head.wieght"]}, r"'head\.wieght' matches no entry", r"head\.weight"),
        (Adapted, {"shared": ["lora"]}, "shared 'lora' matches no entry", "lora_a"),
        (Adapted, {"shared": ["lora_*", "?"]}, "shared '\\?' matches no entry", "norm.weight"),
        (BodyAndHead, {"personal": ["head.*"], "shared": ["*.weight"]}, "'head.weight' is both", "name less"),
        (BodyAndHead, {"personal": ["*"]}, "nothing of the model would travel", ""),
        (BodyAndHead, {"shared": ["*tracked"]}, "nothing of the model would travel", ""),
        (Tied, {"personal": ["second.*"]}, "'first.weight' and 'second.weight' are one tensor", "both, or neither"),
        (Tied, {"shared": ["first.*"]}, "'first.weight' and 'second.weight' are one tensor", "both, or neither"),
        (lambda: nn.Linear(3, 1), {"personal": norm_layers}, "no norm layer", "patterns"),
        (BodyAndHead, {"personal": lambda model: None}, "given as personal returns None", "let it return"),
        (BodyAndHead, {"shared": lambda model: "head.*"}, r"given as shared returns 'head\.\*'", "let it return"),
        (BodyAndHead, {"personal": lambda model: [3]}, "personal holds 3", ""),
    ],
)
def test_division_that_cannot_be_is_refused_by_name(
    model: Callable[[], nn.Module], changes: dict[str, Any], cause: str, hint: str
) -> None:
    """When a run starts and when a device does: both ask for the first model. The nearest names are there."""
    with pytest.raises(ConfigError, match=cause) as caught:
        a_task(model, **changes).initial_parameters(0)
    assert caught.match(hint)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"personal": "head.*"}, r"personal is one string\s+write personal=\['head\.\*'\]"),
        ({"shared": "lora_*"}, "shared is one string"),
        ({"personal": [3]}, "personal holds 3"),
        ({"head_epochs": 1}, "of no personal entries"),
        ({"head_epochs": 0, "personal": ["head.*"]}, "head_epochs is 0"),
    ],
)
def test_patterns_that_are_none_are_refused_when_the_task_is_made(changes: dict[str, Any], cause: str) -> None:
    """A string of letters would match by letters."""
    with pytest.raises(ConfigError, match=cause):
        a_task(BodyAndHead, **changes)


def test_a_pattern_that_matches_an_integer_alone_is_a_pattern() -> None:
    """Counters of batch norms have names, too."""
    task = a_task(BodyAndHead, personal=["*tracked"])
    assert set(train(task).state) == {"norm.num_batches_tracked"}
