"""Whole runs in virtual time: the real aggregator and real devices on a broker in memory."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator.config import Settings
from aggregator.events import PauseAsked, ResumeAsked
from aggregator.history import RunHistory
from broker.faults import Faults
from broker.link import Failures, LinkProfile
from shared.blocking import Lane
from shared.task import Arrays, Client, Trained, Work
from simulator.fleet import AGGREGATOR, Fleet
from simulator.inline_blocking import DelayRange
from tests.integration.linear import LinearTask, some_settings

SLOW: Mapping[Lane, DelayRange] = {Lane.TRAINING: (5.0, 8.0)}
"""Long enough to be killed in mid-training."""


def _history(settings: Settings) -> RunHistory:
    return RunHistory.read(settings.output.folder / "test" / "history.jsonl")


def _model(settings: Settings) -> dict[str, bytes]:
    """Return the arrays of the final model; the file itself also has a header, in any order."""
    arrays = load_file(settings.output.folder / "test" / "final.safetensors")
    return {name: array.tobytes() for name, array in arrays.items()}


def _training(fleet: Fleet, devices: list[str]) -> list[str]:
    """Return those that say that they train."""
    statuses = {device: fleet.status_of(device) for device in devices}
    return [device for device, status in statuses.items() if status is not None and status.phase == "training"]


def _version(fleet: Fleet) -> int:
    return fleet.status.version if fleet.status else 0


async def _run(fleet: Fleet, devices: int) -> None:
    fleet.start_aggregator()
    for i in range(devices):
        fleet.add(f"d{i}")
    await fleet.result()


async def test_run_learns_and_ends(tmp_path: Path) -> None:
    """Eight devices teach a model in a few rounds; every round commits, and the result lies where it is said to."""
    settings = some_settings(tmp_path, stop={"rounds": 5})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        await _run(fleet, 8)
        result = await fleet.result()
    assert (result.version, result.cause) == (5, "rounds")
    losses = [each.metrics["loss"] for each in _history(settings).rounds]
    assert [each.outcome for each in _history(settings).rounds] == ["committed"] * 5
    assert losses[-1] < losses[0] / 10
    assert set(load_file(result.model)) == {"weights"}
    assert result.counts["accepted"] >= 5 * 4
    assert result.counts["rejected"] == result.counts["failed"] == 0


@pytest.mark.parametrize("padding", [0, 5000])
async def test_same_seed_gives_the_same_bits(tmp_path: Path, padding: int) -> None:
    """The seed of a run and of its simulation decide every bit of the model, with updates inline or in chunks."""
    models = []
    for run, seed in enumerate([1, 1, 2]):
        folder = tmp_path / str(run)
        settings = some_settings(folder).model_copy(update={"seed": seed})
        async with Fleet(settings, LinearTask(padding), folder, seed=seed) as fleet:
            await _run(fleet, 6)
        models.append(_model(settings))
    assert models[0] == models[1]
    assert models[0] != models[2]


async def test_round_commits_when_a_third_of_its_cohort_is_killed(tmp_path: Path) -> None:
    """Two of six are killed in mid-training for good: the round commits all the same, without them."""
    settings = some_settings(tmp_path, stop={"rounds": 1})
    devices = [f"d{i}" for i in range(6)]
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for device in devices:
            fleet.add(device, delays=SLOW)
        await fleet.until(lambda: len(_training(fleet, devices)) == 6)
        for device in devices[:2]:
            await fleet.kill(device)
        result = await fleet.result()
    (only,) = _history(settings).rounds
    assert only.outcome == "committed"
    assert set(only.participants) <= set(devices[2:])
    assert len(only.participants) == 4
    assert result.version == 1


async def test_round_is_abandoned_when_all_are_killed_and_goes_on_when_they_return(tmp_path: Path) -> None:
    """Nobody left: the window is extended, the round abandoned, and the run finishes once devices are back."""
    settings = some_settings(tmp_path, stop={"rounds": 2}, round={"window_s": {"min": 20, "max": 20}, "extensions": 1})
    devices = [f"d{i}" for i in range(6)]
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for device in devices:
            fleet.add(device, delays=SLOW)
        await fleet.until(lambda: len(_training(fleet, devices)) == 6)
        began = asyncio.get_running_loop().time()
        for device in devices:
            await fleet.kill(device)
        await fleet.until(lambda: fleet.status is not None and fleet.status.phase == "waiting")
        waited_s = asyncio.get_running_loop().time() - began
        assert fleet.status is not None
        assert fleet.status.version == 0
        await asyncio.sleep(600.0)
        for device in devices:
            fleet.start(device)
        result = await fleet.result()
    assert waited_s == pytest.approx(30.0, abs=10.0)  # 20 s and half of it again, less what the round had lasted
    outcomes = [each.outcome for each in _history(settings).rounds]
    assert outcomes[0] == "abandoned"
    assert outcomes.count("committed") == 2
    assert result.version == 2


async def test_late_device_joins(tmp_path: Path) -> None:
    """A run that waits for devices begins when the missing one arrives, and counts its update."""
    settings = some_settings(tmp_path, round={"over_selection": 1.0, "quorum": 1.0}, stop={"rounds": 2})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(3):
            fleet.add(f"d{i}")
        await asyncio.sleep(120.0)
        assert fleet.status is not None
        assert (fleet.status.phase, fleet.status.have, fleet.status.need) == ("waiting", 3, 4)
        fleet.add("late")
        await fleet.result()
    assert all("late" in each.participants for each in _history(settings).rounds)


@pytest.mark.parametrize("padding", [0, 5000])
async def test_run_finishes_on_a_broker_that_lies(tmp_path: Path, padding: int) -> None:
    """Messages lost after their acknowledgement, twice, or late and out of order: every update counts at most once."""
    faults = Faults(lose_qos0=0.2, duplicate_qos1=0.3, lose_acknowledged=0.03, reorder=0.3, reorder_s=0.5)
    settings = some_settings(tmp_path, stop={"rounds": 4})
    async with Fleet(settings, LinearTask(padding), tmp_path, faults=faults) as fleet:
        await _run(fleet, 8)
        result = await fleet.result()
    assert result.version == 4
    for each in _history(settings).rounds:
        assert len(set(each.participants)) == len(each.participants)


async def test_devices_on_bad_links_finish_their_uploads(tmp_path: Path) -> None:
    """Links that go down, stall and reset every few seconds: uploads of six chunks are resumed until they are whole."""
    bad = LinkProfile(
        latency_s=0.05,
        jitter_s=0.05,
        up_bytes_per_s=4_000,
        outages=Failures(every_s=10.0, lasts_s=2.0),
        stalls=Failures(every_s=15.0, lasts_s=2.0),
        resets_every_s=12.0,
    )
    settings = some_settings(tmp_path, stop={"rounds": 3}, round={"window_s": {"min": 60, "max": 300}})
    async with Fleet(settings, LinearTask(padding=5000), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(8):
            fleet.add(f"d{i}", link=bad)
        result = await fleet.result()
    assert result.version == 3
    assert all(each.outcome == "committed" for each in _history(settings).rounds)


async def test_run_survives_a_broker_that_forgets_everything(tmp_path: Path) -> None:
    """The broker dies in mid-round and comes back empty: all is published again, and the run finishes."""
    settings = some_settings(tmp_path, stop={"rounds": 3})
    devices = [f"d{i}" for i in range(6)]
    async with Fleet(settings, LinearTask(padding=5000), tmp_path) as fleet:
        fleet.start_aggregator()
        for device in devices:
            fleet.add(device, delays=SLOW)
        await fleet.until(lambda: _version(fleet) == 1 and len(_training(fleet, devices)) >= 4)
        fleet.broker.stop()
        await asyncio.sleep(20.0)
        fleet.broker.start()
        result = await fleet.result()
    assert result.version == 3


async def test_killed_aggregator_resumes_the_run_of_its_name(tmp_path: Path) -> None:
    """Killed in mid-round and started again, the aggregator goes on where its journal ends."""
    settings = some_settings(tmp_path, stop={"rounds": 4})
    devices = [f"d{i}" for i in range(6)]
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for device in devices:
            fleet.add(device, delays=SLOW)
        await fleet.until(lambda: _version(fleet) == 2 and len(_training(fleet, devices)) >= 4)
        assert fleet.status is not None
        epoch = fleet.status.epoch
        await fleet.kill(AGGREGATOR)
        await asyncio.sleep(30.0)
        assert fleet.status is not None
        assert not fleet.status.online
        fleet.start_aggregator()
        await fleet.until(lambda: fleet.status is not None and fleet.status.online)
        assert fleet.status.epoch > epoch
        result = await fleet.result()
    rounds = _history(settings).rounds
    assert result.version == 4
    assert [each.version for each in rounds if each.outcome == "committed"] == [1, 2, 3, 4]


async def test_killed_device_offers_its_update_after_the_reboot(tmp_path: Path) -> None:
    """A finished update survives the device: with nobody else to give a fourth, the round commits with it."""
    settings = some_settings(
        tmp_path, stop={"rounds": 1}, round={"over_selection": 1.0, "quorum": 1.0, "window_s": {"min": 60, "max": 60}}
    )
    link = LinkProfile(up_bytes_per_s=2_000)
    async with Fleet(settings, LinearTask(padding=5000), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(3):
            fleet.add(f"d{i}")
        fleet.add("rebooted", link=link)

        def uploads() -> bool:
            status = fleet.status_of("rebooted")
            return status is not None and status.phase == "reporting"

        await fleet.until(uploads)
        await asyncio.sleep(5.0)
        await fleet.kill("rebooted")
        await asyncio.sleep(5.0)
        fleet.start("rebooted")
        await fleet.result()
    assert "rebooted" in _history(settings).rounds[0].participants


async def test_paused_run_moves_nothing_until_resumed(tmp_path: Path) -> None:
    """While it is paused no version is made; afterwards the run goes on to its end."""
    settings = some_settings(tmp_path, stop={"rounds": 4})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(6):
            fleet.add(f"d{i}")
        await fleet.until(lambda: _version(fleet) == 1)
        assert fleet.aggregator is not None
        fleet.aggregator.tell(PauseAsked())
        await asyncio.sleep(5.0)
        version = _version(fleet)
        assert fleet.status is not None
        assert fleet.status.phase == "paused"
        await asyncio.sleep(100.0)
        assert _version(fleet) == version < 4
        fleet.aggregator.tell(ResumeAsked())
        result = await fleet.result()
    assert result.version == 4


async def test_devices_evaluate_what_they_learned(tmp_path: Path) -> None:
    """Every second version is evaluated on devices: sums over them, and percentiles beside."""
    settings = some_settings(
        tmp_path, stop={"rounds": 5}, evaluation={"federated_every": 2, "devices": 5, "window_s": 30}
    )
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        await _run(fleet, 6)
    evaluations = _history(settings).evaluations
    assert [each.version for each in evaluations][:2] == [2, 4]
    for each in evaluations[:2]:
        accuracy = each.metrics["accuracy"]
        assert 1 <= each.n_devices <= each.n_asked == 5
        assert 0.0 <= accuracy.p10 <= accuracy.p50 <= accuracy.p90 <= 1.0


class _Raises(LinearTask):
    """Fails where others learn."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        raise ZeroDivisionError("no data today")


class _Diverges(LinearTask):
    """Returns what nobody must count."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        trained = super().train(parameters, work, client)
        weights = np.full(8, np.nan, np.float32)
        return Trained(parameters={"weights": weights}, num_examples=trained.num_examples, n_steps=1)


@pytest.mark.parametrize("broken", [_Raises(), _Diverges()])
async def test_failed_training_is_refilled(tmp_path: Path, broken: LinearTask) -> None:
    """A device whose training raises or diverges reports the failure at once, and another takes its place."""
    settings = some_settings(tmp_path, stop={"rounds": 2}, round={"over_selection": 1.0, "quorum": 1.0})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(6):
            fleet.add(f"d{i}", task=broken if i < 2 else None)
        result = await fleet.result()
    assert result.version == 2
    assert result.counts["failed"] >= 1
    assert all(each.outcome == "committed" for each in _history(settings).rounds)
    assert not {"d0", "d1"} & {device for each in _history(settings).rounds for device in each.participants}
