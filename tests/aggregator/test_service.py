"""The aggregator as a whole in virtual time: real devices, a broker in memory, and whatever happens to them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgpack
import numpy as np
import pytest
from safetensors.numpy import load_file

from aggregator import events as ev
from aggregator.aggregation import Aggregation
from aggregator.config import Settings
from aggregator.journal import read_journal
from aggregator.model_store import ModelStore
from aggregator.part_files import PartFiles
from aggregator.records import AcceptRecord, CommitRecord, EpochRecord, OutcomeRecord
from aggregator.run_folder import RunFolder
from aggregator.service import Aggregator, RunResult
from broker.faults import Faults
from broker.transport import Connection
from shared.blocking import Lane
from shared.errors import AlreadyServed, InvalidState
from shared.messages import Assignment, CheckIn, Outcome, Receipt
from shared.parameters import ParameterSpec
from shared.topics import CheckInTopic, ReportTopic
from shared.wire import decode, encode
from simulator.fleet import AGGREGATOR, Fleet
from simulator.inline_blocking import DelayRange
from tests.aggregator.builders import a_report
from tests.integration.linear import LinearTask, some_settings

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
async def _without_debug() -> None:
    """Asyncio's debug mode would take four times as long."""
    asyncio.get_running_loop().set_debug(False)


T = TypeVar("T")
SLOW = {Lane.TRAINING: (5.0, 8.0)}


def a_run(folder: Path, **tables: Any) -> Settings:
    """Return settings of two rounds of three devices."""
    knobs = {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0, "window_s": {"min": 20, "max": 60}}
    return some_settings(folder, **{"round": knobs, "stop": {"rounds": 2}, **tables})


def add_devices(fleet: Fleet, n: int = 3, delays: dict[Lane, DelayRange] | None = None) -> None:
    """Switch devices on."""
    for i in range(n):
        fleet.add(f"d{i}", delays=delays)


def final_model(settings: Settings) -> dict[str, bytes]:
    """Return the arrays of the final model."""
    path = settings.output.folder / "test" / "final.safetensors"
    return {name: array.tobytes() for name, array in load_file(path).items()}


async def online(fleet: Fleet) -> None:
    """Wait until the aggregator serves."""
    await fleet.until(lambda: fleet.status is not None and fleet.status.online)


async def at_once(lane: Lane, work: Callable[[], T]) -> T:
    """Work without threads."""
    return work()


async def replayed(settings: Settings, scratch: Path) -> bytes:
    """Return the model that the journal's own rows yield, from version 0, in an aggregator that was never killed."""
    folder = settings.output.folder / "test"
    rows = list(read_journal(folder / "journal.sqlite"))
    store, spec = ModelStore(scratch), ParameterSpec.of(LinearTask().initial_parameters(0))
    started = LinearTask().initial_parameters(_model_seed(settings))
    state = replace(
        ModelStore(folder / "versions").load(max(ModelStore(folder / "versions").versions())),
        version=0,
        parameters=spec.flatten(started.parameters),
    )
    aggregation = Aggregation(settings, state, PartFiles(scratch / "updates"), store, at_once)
    for commit in (row for row in rows if isinstance(row, CommitRecord)):
        counted = [row for row in rows if isinstance(row, AcceptRecord) and row.into == commit.version]
        await aggregation.write(await aggregation.make(commit.version, commit.round_id, counted))
    return aggregation.state.parameters.tobytes()


def _model_seed(settings: Settings) -> int:
    from aggregator.selection import seed_of

    return seed_of(settings.seed, "model") % 2**31


@pytest.mark.parametrize("seed", range(3))
async def test_run_that_was_killed_ends_with_the_model_that_its_journal_yields(tmp_path: Path, seed: int) -> None:
    """Killed four times at random moments: the same bits as an aggregator that reads the same rows in one life."""
    rng = Random(seed)
    settings = a_run(tmp_path, stop={"rounds": 3}, transfer={"inline_bytes": 4096, "check_in_interval_s": 5})
    async with Fleet(settings, LinearTask(), tmp_path, seed=seed) as fleet:
        fleet.start_aggregator()
        add_devices(fleet, 5)
        for _ in range(4):
            await asyncio.sleep(rng.uniform(0.5, 4.0))
            if not fleet.is_running(AGGREGATOR):
                break
            await fleet.kill(AGGREGATOR)
            fleet.start_aggregator()
        result = await fleet.result()
    rows = list(read_journal(result.folder / "journal.sqlite"))
    leases = [row.lease for row in rows if isinstance(row, AcceptRecord)]
    bases = [(row.device, row.base_version) for row in rows if isinstance(row, AcceptRecord)]
    assert len(set(leases)) == len(leases)
    assert len(set(bases)) == len(bases)
    assert result.version == 3
    assert final_model(settings)["weights"] == await replayed(settings, tmp_path / "scratch")


async def test_started_again_after_its_end_a_run_says_so_and_changes_nothing(tmp_path: Path) -> None:
    """The same result, the same model; one more start in the journal."""
    settings = a_run(tmp_path)
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        add_devices(fleet)
        first = await fleet.result()
        model = final_model(settings)
        fleet.start_aggregator()
        second = await fleet.result()
    assert (second.cause, second.version, second.counts) == ("rounds", 2, first.counts)
    assert final_model(settings) == model
    rows = list(read_journal(second.folder / "journal.sqlite"))
    assert sum(isinstance(row, EpochRecord) for row in rows) == 2


async def test_second_aggregator_on_the_folder_is_told_of_the_first(tmp_path: Path) -> None:
    """By its pid; the first is not disturbed."""
    settings = a_run(tmp_path)
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        with RunFolder(settings.output.folder / "test"), pytest.raises(AlreadyServed, match="pid"):
            await Aggregator(settings, LinearTask(), fleet.broker.transport("second"), run_blocking=at_once).run()


async def test_operator_pauses_resumes_and_stops(tmp_path: Path) -> None:
    """Nothing moves in the pause; stopped, the run ends with its last version and says by whom."""
    settings = a_run(tmp_path, stop={"rounds": 50})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        add_devices(fleet)
        await fleet.until(lambda: fleet.status is not None and fleet.status.version >= 1)
        assert fleet.aggregator is not None
        reply = fleet.aggregator.tell(ev.PauseAsked())
        assert (reply["run"], "phase" in reply) == ("test", True)
        await asyncio.sleep(5.0)
        version = fleet.status.version if fleet.status else 0
        await asyncio.sleep(600.0)
        assert fleet.status is not None
        assert (fleet.status.phase, fleet.status.version) == ("paused", version)
        assert fleet.status.causes == ["operator: by the operator"]
        fleet.aggregator.tell(ev.ResumeAsked())
        await fleet.until(lambda: fleet.status is not None and fleet.status.version > version)
        fleet.aggregator.tell(ev.StopAsked())
        result = await fleet.result()
    assert result.cause == "operator"
    assert version < result.version < 50
    assert result.model.exists()


async def test_leases_that_the_disk_could_not_bear_are_not_given(tmp_path: Path) -> None:
    """Updates of petabytes: nobody is asked, the status says why, and the run can be stopped."""
    settings = a_run(tmp_path, transfer={"max_update_bytes": 2**53 - 1})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        add_devices(fleet)
        await asyncio.sleep(60.0)
        assert fleet.status is not None
        assert fleet.status.causes == ["no_room_on_disk_for_leases"]
        assert set(fleet.status.states.values()) == {0}
        assert fleet.aggregator is not None
        fleet.aggregator.tell(ev.StopAsked())
        assert (await fleet.result()).cause == "operator"


async def test_task_or_evaluator_and_not_both(tmp_path: Path) -> None:
    """Anything else is the caller's mistake; and nobody is steered who does not serve."""
    async with Fleet(a_run(tmp_path), LinearTask(), tmp_path) as fleet:
        transport = fleet.broker.transport("x")
        with pytest.raises(InvalidState):
            Aggregator(fleet.settings, None, transport)
        assert "error" in Aggregator(fleet.settings, LinearTask(), transport).tell(ev.PauseAsked())


async def test_metrics_of_devices_end_a_run_without_data_on_the_server(tmp_path: Path) -> None:
    """No central evaluation: the devices' own loss is good enough, and their version is the best."""
    settings = a_run(
        tmp_path,
        stop={"rounds": 50, "metric": "loss", "at_most": 1.0},
        evaluation={"central_every": 0, "federated_every": 1, "devices": 2, "window_s": 20},
    )
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        add_devices(fleet, 5)
        result = await fleet.result()
    assert result.cause == "metric"
    assert result.metrics["loss"] <= 1.0


# one device by hand


class Puppet:
    """A device whose every message is said by the test."""

    def __init__(self, fleet: Fleet, device: str, connection: Connection) -> None:
        self.fleet, self.device, self.connection = fleet, device, connection
        self.orders: list[Assignment] = []
        self.receipts: list[Receipt] = []
        self.spec = ParameterSpec.of(LinearTask().initial_parameters(0)).digest

    async def listen(self) -> None:
        """Keep what arrives."""
        await self.connection.subscribe([f"{self.fleet.topics.root}/to/{self.device}/#"])
        async for message in self.connection.messages():
            if message.topic.endswith("/assignment"):
                self.orders.append(decode(Assignment, message.payload))
            elif message.topic.endswith("/receipt"):
                self.receipts.append(decode(Receipt, message.payload))

    async def check_in(self) -> Assignment:
        """Check in, and wait for work."""
        message = CheckIn(run="test", spec=self.spec, boot="b", connection=1, protocols=[1], codecs=["float32"])
        await self.connection.publish(self.fleet.topics.build(CheckInTopic(self.device)), encode(message))
        await self.fleet.until(lambda: self.orders)
        return self.orders[-1]

    async def report(self, lease: str, payload: bytes) -> None:
        """Say something under a lease."""
        await self.connection.publish(self.fleet.topics.build(ReportTopic(self.device, lease)), payload)

    async def answer(self, n: int = 1) -> Receipt:
        """Wait for the n-th receipt."""
        await self.fleet.until(lambda: len(self.receipts) >= n)
        return self.receipts[n - 1]


async def with_puppet(fleet: Fleet, act: Callable[[Puppet], Any], device: str = "puppet") -> None:
    """Let a test speak for a device."""
    async with fleet.broker.transport(device).connect() as connection:
        puppet = Puppet(fleet, device, connection)
        listening = asyncio.create_task(puppet.listen(), name=device)
        await online(fleet)
        try:
            await act(puppet)
        finally:
            listening.cancel()
            await asyncio.wait([listening])


def an_update(value: float, n: int = 8) -> bytes:
    """Return an update of the linear model."""
    return np.full(n, value, "<f4").tobytes()


@pytest.mark.parametrize(
    ("update", "fields", "reason"),
    [
        (an_update(np.nan), {}, "not_finite"),
        (an_update(1.0), {"sha256": "0" * 64}, "digest"),
        (an_update(1.0, 7), {}, "length"),
        (an_update(1e6), {}, "norm"),
        (an_update(1.0), {"num_examples": True}, "fields"),
    ],
)
async def test_bad_update_is_rejected_counted_and_without_effect(
    tmp_path: Path, update: bytes, fields: dict[str, Any], reason: str
) -> None:
    """The model is the one of the three honest devices; the receipt and the result name the reason."""
    settings = a_run(tmp_path, stop={"rounds": 1}, server={"max_norm": 1000.0})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()

        async def misbehave(puppet: Puppet) -> None:
            add_devices(fleet, 2)
            order = await puppet.check_in()
            report = msgpack.unpackb(encode(a_report(update, order.lease)))
            await puppet.report(order.lease, msgpack.packb({**report, "v": 1, **fields}))
            receipt = await puppet.answer()
            assert (receipt.outcome, str(receipt.reason)) == (Outcome.REJECTED, reason)
            await puppet.report(order.lease, encode(a_report(an_update(1.0), order.lease)))
            assert (await puppet.answer(2)).repeat
            fleet.add("d2")
            await fleet.result()

        await with_puppet(fleet, misbehave)
        result = await fleet.result()
    assert (result.counts["rejected"], result.counts["accepted"], result.version) == (1, 3, 1)
    rows = list(read_journal(result.folder / "journal.sqlite"))
    assert {row.device for row in rows if isinstance(row, AcceptRecord)} == {"d0", "d1", "d2"}
    assert [str(row.reason) for row in rows if isinstance(row, OutcomeRecord)] == [reason]
    assert final_model(settings)["weights"] == await replayed(settings, tmp_path / "scratch")


async def test_hostile_client_changes_no_bit_of_the_model(tmp_path: Path) -> None:
    """Garbage on every topic, leases of others, ids by the hundred: counted, and the model is the same."""
    models: list[dict[str, bytes]] = []
    results: list[RunResult] = []
    for run, is_attacked in enumerate((False, True)):
        folder = tmp_path / str(run)
        settings = a_run(folder)
        async with Fleet(settings, LinearTask(), folder, seed=5) as fleet:
            fleet.start_aggregator()
            add_devices(fleet)
            await online(fleet)
            if is_attacked:
                await _attack(fleet)
            results.append(await fleet.result())
        models.append(final_model(settings))
    assert models[0] == models[1]
    refused = results[1].refused
    assert refused["unknown_lease"] > 10
    assert refused["foreign_lease"] > 0
    assert refused["malformed"] > 10
    assert results[0].refused == {}
    assert results[0].counts == results[1].counts


async def _attack(fleet: Fleet) -> None:
    rng, root = Random(1), fleet.topics.root
    async with fleet.broker.transport("mallory").connect() as connection:
        for i in range(60):
            payload = rng.choice([rng.randbytes(rng.randrange(200)), json.dumps({"v": 1}).encode(), b"\x81\xa1v\x01"])
            lease = f"{rng.randrange(16):032x}"
            for topic in (
                f"{root}/from/mallory/check-in",
                f"{root}/from/id-{i}/check-in",
                f"{root}/from/mallory/status",
                f"{root}/from/mallory/report/{lease}",
                f"{root}/from/mallory/chunk/{lease}/{i}",
            ):
                await connection.publish(topic, payload or b"\0")
            owner = fleet.status_of("d0")
            if owner is not None and owner.lease is not None:
                await connection.publish(f"{root}/from/mallory/report/{owner.lease}", b"mine")
                await connection.publish(f"{root}/from/mallory/chunk/{owner.lease}/0", b"mine")
            await asyncio.sleep(0.06)


async def test_receipt_follows_the_row(tmp_path: Path) -> None:
    """Killed at any moment after a device was told `accepted`, the row is there; told again, it is a repeat."""
    settings = a_run(tmp_path, transfer={"inline_bytes": 1024, "check_in_interval_s": 5})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        add_devices(fleet, 2, SLOW)

        async def behave(puppet: Puppet) -> None:
            order = await puppet.check_in()
            payload = encode(a_report(an_update(0.01), order.lease))
            for _ in range(3):  # faster than the journal
                await puppet.report(order.lease, payload)
            await puppet.answer()
            await fleet.kill(AGGREGATOR)
            rows = list(read_journal(settings.output.folder / "test" / "journal.sqlite"))
            assert [row.lease for row in rows if isinstance(row, AcceptRecord)] == [order.lease]
            fleet.start_aggregator()
            await asyncio.sleep(5.0)
            n = len(puppet.receipts)
            await puppet.report(order.lease, payload)
            again = await puppet.answer(n + 1)
            assert (again.outcome, again.repeat) == (Outcome.ACCEPTED, True)

        await with_puppet(fleet, behave)


async def test_lost_messages_cost_time_and_no_update(tmp_path: Path) -> None:
    """A tenth of all messages vanish after their acknowledgement: the run ends, nothing counts twice."""
    settings = a_run(tmp_path, transfer={"check_in_interval_s": 5})
    faults = Faults(lose_qos0=0.5, lose_acknowledged=0.1, duplicate_qos1=0.2)
    async with Fleet(settings, LinearTask(), tmp_path, faults=faults) as fleet:
        fleet.start_aggregator()
        add_devices(fleet, 4)
        result = await fleet.result()
    assert result.version == 2
    assert final_model(settings)["weights"] == await replayed(settings, tmp_path / "scratch")
