"""Models of which only a part travels, through whole runs: adapters on a common base, heads that stay at home."""

import json
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from aggregator.evaluation import central_metrics
from aggregator.explain import explain
from aggregator.history import RunHistory
from shared.errors import ConfigError
from shared.task import Client
from shared.torch_task import Batch, TorchTask, momentum, sgd
from shared.torch_task.division import BASE
from simulator.fleet import Fleet
from tests.integration.linear import some_settings

N_DEVICES = 4


class Adapted(nn.Module):
    """A line on which all agree, and an adapter of rank one. `scale` makes another base."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.base = nn.Linear(2, 1)
        self.lora_a, self.lora_b = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.zeros(1, 1))
        with torch.no_grad():
            self.base.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 1)."""
        out: Tensor = self.base(x) + x @ (self.lora_b @ self.lora_a).T
        return out


class Shifted(nn.Module):
    """A slope that all share, and a height of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.height = nn.Linear(2, 1, bias=False), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 1)."""
        out: Tensor = self.slope(x) + self.height
        return out


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return functional.mse_loss(network(x), y)


def _points(seed: int, height: float) -> TensorDataset:
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, 2 * x[:, :1] - 0.5 * x[:, 1:] + height)


def _adapters(scale: float = 1.0) -> TorchTask:
    return TorchTask(
        model=lambda: Adapted(scale),
        loss=_loss,
        train_data=lambda client: _points(int(client.id[1:]), 0.0),
        test_data=lambda client: _points(99, 0.0),
        shared=["lora_*"],
    )


def _heights(**changes: Any) -> TorchTask:
    def height(client: Client | None) -> float:
        return 0.0 if client is None else 4.0 * int(client.id[1:]) - 6.0

    return TorchTask(
        model=Shifted,
        loss=_loss,
        train_data=lambda client: _points(int(client.id[1:]), height(client)),
        test_data=lambda client: _points(99, height(client)),
        personal=["height"],
        head_epochs=4,
        optimizer=momentum if "keep_optimizer" in changes else sgd,
        **changes,
    )


async def test_adapters_are_learned_on_one_base_and_a_device_with_another_is_refused(tmp_path: Path) -> None:
    """The loss falls, the file fits on the user's own base; whose base differs is told so, and has no part in it."""
    settings = some_settings(
        tmp_path,
        round={"report_goal": 3, "over_selection": 1.0, "quorum": 1.0},
        training={"epochs": 5, "learning_rate": 0.05},
        stop={"rounds": 4},
    )
    with structlog.testing.capture_logs() as logs:
        async with Fleet(settings, _adapters(), tmp_path) as fleet:
            fleet.start_aggregator()
            for i in range(N_DEVICES):
                fleet.add(f"d{i}", task=_adapters(1.5) if i == 0 else None)
            result = await fleet.result()
    assert (result.version, result.counts["accepted"]) == (4, 12)
    history = [json.loads(line) for line in result.history.read_text().splitlines()]
    assert {device for each in history for device in each["participants"]} == {"d1", "d2", "d3"}
    (line,) = [line for line in logs if line["event"] == "spec_differs"]
    assert line["parameter"].count(BASE) == 2

    learned = load_file(result.model)
    (base,) = [name for name in learned if name.startswith(BASE)]
    assert learned.pop(base).numel() == 0
    torch.manual_seed(0)
    net = Adapted()
    assert set(net.load_state_dict(learned, strict=False).missing_keys) == {"base.weight", "base.bias"}
    x, y = _points(99, 0.0).tensors
    assert functional.mse_loss(net(x), y).item() == pytest.approx(result.metrics["loss"], rel=1e-4)
    assert result.metrics["loss"] < functional.mse_loss(Adapted().base(x), y).item()


async def test_personal_heads_fit_their_devices_better_than_the_global_model_does(tmp_path: Path) -> None:
    """Every device reports both; over devices there are percentiles of both, and the journal has each one's own."""
    settings = some_settings(
        tmp_path,
        round={"report_goal": N_DEVICES, "over_selection": 1.0, "quorum": 1.0},
        training={"epochs": 2, "learning_rate": 0.1},
        stop={"rounds": 6, "metric": "loss"},
        evaluation={"federated_every": 4},
    )
    async with Fleet(settings, _heights(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(N_DEVICES):
            fleet.add(f"d{i}")
        result = await fleet.result()
    last = RunHistory.read(result.history).evaluations[-1]
    own, common = last.metrics["personal_loss"], last.metrics["loss"]
    assert own.n_devices == common.n_devices == last.n_devices
    assert own.p90 < common.p50 / 10
    assert last.n_devices >= 2
    for each in explain(result.folder).evaluations:
        metrics = dict(each.metrics)
        assert isinstance(metrics["loss"], tuple)
        assert isinstance(metrics["personal_loss"], tuple)
        assert metrics["personal_loss"][0] < metrics["loss"][0]


@pytest.mark.parametrize(
    ("training", "kind"),
    [({"algorithm": "scaffold"}, "adapters"), ({"algorithm": "feddyn", "alpha": 0.5}, "heights")],
)
async def test_algorithms_that_keep_state_go_with_parts_that_do_not_travel(
    tmp_path: Path, training: dict[str, Any], kind: str
) -> None:
    """Personal entries, an optimizer's moments and the algorithm's own state lie side by side on a device."""
    rounds: dict[str, Any] = {"report_goal": N_DEVICES, "over_selection": 1.0, "quorum": 1.0}
    settings = some_settings(
        tmp_path,
        round=rounds,
        training={"epochs": 5, "learning_rate": 0.05, **training},
        stop={"rounds": 5, "metric": "loss"},
        evaluation={"at_end": True, "devices": N_DEVICES},
    )
    task = _adapters() if kind == "adapters" else _heights(keep_optimizer=True)
    async with Fleet(settings, task, tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(N_DEVICES):
            fleet.add(f"d{i}")
        result = await fleet.result()
    assert (result.version, result.counts["accepted"], result.counts["failed"]) == (5, 20, 0)
    (last,) = RunHistory.read(result.history).evaluations
    assert (last.n_asked, last.n_devices) == (N_DEVICES, N_DEVICES)
    if kind == "heights":
        assert last.metrics["personal_loss"].p50 < last.metrics["loss"].p50 / 2
    else:
        assert "personal_loss" not in last.metrics
        start = task.evaluate(task.initial_parameters(1).parameters, None, {})
        assert start is not None
        assert last.metrics["loss"].value < central_metrics(start)["loss"]


async def test_adapters_are_a_warm_start_on_their_own_base_only(tmp_path: Path) -> None:
    """The file names its base: on another, its adapters mean nothing, and it is refused."""
    torch.manual_seed(1)
    path = tmp_path / "adapters.safetensors"
    own, other = _adapters(), _adapters(1.5)
    save_file({name: torch.from_numpy(array) for name, array in own.initial_parameters(7).parameters.items()}, path)
    settings = some_settings(tmp_path, server={"init_from": path}, stop={"rounds": 1}, training={"learning_rate": 1e-9})
    async with Fleet(settings, own, tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(6):
            fleet.add(f"d{i + 1}")
        result = await fleet.result()
    assert torch.allclose(load_file(result.model)["lora_a"], load_file(path)["lora_a"])
    again = settings.model_copy(update={"run": "again"})

    async def start_on_another() -> None:
        async with Fleet(again, other, tmp_path) as fleet:
            fleet.start_aggregator()
            await fleet.result()

    with pytest.raises(ExceptionGroup) as caught:
        await start_on_another()
    assert caught.group_contains(ConfigError, match=BASE)
