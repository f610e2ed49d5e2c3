"""What goes on beside the rounds, and what a full disk does to a run: nothing that stays."""

import asyncio
import errno
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from aggregator.config import Settings
from aggregator.model_store import ModelStore, ServerState
from aggregator.part_files import PartFiles
from aggregator.upkeep import SPARE_BYTES
from edge_client.config import EdgeSettings
from shared.messages import Outcome, Receipt
from shared.topics import Topics
from shared.wire import decode
from simulator.fleet import AGGREGATOR, Fleet
from tests.aggregator.small_disk import small_disk
from tests.integration.linear import LinearTask, some_settings

pytestmark = pytest.mark.virtual_time

PADDING = 20_000
"""Parameters that nobody learns: updates of 80 KB, which travel in chunks."""
UPDATE_BYTES = 4 * (PADDING + 8)


@pytest.fixture(autouse=True)
async def _without_debug() -> None:
    """Asyncio's debug mode would take four times as long."""
    asyncio.get_running_loop().set_debug(False)


def a_run(folder: Path, **tables: Any) -> Settings:
    """Return settings of two rounds of three devices."""
    knobs = {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0}
    return some_settings(folder, **{"round": knobs, "stop": {"rounds": 2}, **tables})


def phase(fleet: Fleet) -> str:
    """Return the phase that the aggregator says it is in."""
    return fleet.status.phase if fleet.status else ""


class Receipts:
    """What one device is told, as a stranger who may read everything hears it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.outcomes: list[Outcome] = []

    async def listen(self) -> None:
        """Listen until cancelled."""
        topics: Topics = self._fleet.topics
        async with self._fleet.broker.transport("listener").connect() as connection:
            await connection.subscribe([f"{topics.root}/to/+/receipt"])
            async for message in connection.messages():
                self.outcomes.append(decode(Receipt, message.payload).outcome)


async def begin(fleet: Fleet, n_devices: int = 3) -> None:
    """Start everybody."""
    fleet.start_aggregator()
    for i in range(n_devices):
        fleet.add(f"d{i}")
    await fleet.until(lambda: phase(fleet) == "reporting")


@pytest.mark.parametrize("leaving", [0, 16 * 2**20], ids=["full", "nearly-full"])
async def test_full_disk_pauses_the_run_until_there_is_space(tmp_path: Path, leaving: int) -> None:
    """A disk that is really full, in the middle of a round: PAUSED by `disk`, `busy` to devices, then on as before.

    The log says once that it pauses and why, once what is missing, and once that it goes on.
    """
    with small_disk(tmp_path, 3 * SPARE_BYTES) as disk, structlog.testing.capture_logs() as lines:
        fleet = Fleet(a_run(disk.path), LinearTask(padding=PADDING), tmp_path)
        async with fleet:
            receipts = Receipts(fleet)
            listening = asyncio.create_task(receipts.listen())
            await begin(fleet)
            disk.fill(leaving)
            await fleet.until(lambda: phase(fleet) == "paused")
            assert fleet.status is not None
            assert fleet.status.causes == ["disk: the disk is full"]
            await asyncio.sleep(600.0)
            assert phase(fleet) == "paused"
            assert fleet.is_running(AGGREGATOR)
            assert Outcome.BUSY in receipts.outcomes
            disk.empty()
            await fleet.until(lambda: phase(fleet) != "paused")
            result = await fleet.result()
            listening.cancel()
        assert (result.version, result.counts["accepted"]) == (2, 6)
        assert not list((disk.path / "runs" / "test" / "updates").iterdir())
        paused, goes_on = [line for line in lines if line["event"] in ("paused", "goes_on")]
        assert (paused["event"], paused["causes"]) == ("paused", {"disk": "the disk is full"})
        assert goes_on["paused_s"] >= 600.0
        low = [line for line in lines if line["event"] == "disk_nearly_full"]
        assert all(line["folder"] == str(disk.path / "runs" / "test") for line in low)
        assert len(low) <= 1
        told = [line for line in lines if line["event"] in ("journal_failed", "disk_failed") and "times" in line]
        assert len(told) <= 2 * (2 + 600 // 60)
        assert len([line for line in lines if line["event"] == "busy"]) <= 3


async def test_disk_that_fills_up_while_a_version_is_written_costs_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error that an operator must clear: the version is made of the same updates once there is space."""
    save = ModelStore.save
    with small_disk(tmp_path, 3 * SPARE_BYTES) as disk:

        def filled(self: ModelStore, state: ServerState) -> Path:
            if state.version == 1:
                disk.fill()
                monkeypatch.setattr(ModelStore, "save", save)
            return save(self, state)

        monkeypatch.setattr(ModelStore, "save", filled)
        async with Fleet(a_run(disk.path, stop={"rounds": 1}), LinearTask(padding=PADDING), tmp_path) as fleet:
            await begin(fleet)
            await fleet.until(lambda: phase(fleet) == "paused")
            assert fleet.status is not None
            assert fleet.status.causes[0].startswith("disk: ")
            assert fleet.status.states["accepted"] == 3
            await asyncio.sleep(60.0)
            disk.empty()
            result = await fleet.result()
    assert (result.version, result.counts["accepted"]) == (1, 3)


async def test_disk_whose_writes_fail_pauses_until_they_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is space, and yet nothing can be written, as over a quota: the same pause, and no update is lost."""
    fails = False
    write, probe = PartFiles.write, Path.open

    def failing(self: PartFiles, *args: Any, **kwargs: Any) -> int:
        if fails:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return write(self, *args, **kwargs)

    def opening(self: Path, *args: Any, **kwargs: Any) -> Any:
        if fails and self.name == ".probe":
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return probe(self, *args, **kwargs)

    monkeypatch.setattr(PartFiles, "write", failing)
    monkeypatch.setattr(Path, "open", opening)
    async with Fleet(a_run(tmp_path), LinearTask(padding=PADDING), tmp_path) as fleet:
        await begin(fleet)
        fails = True
        await fleet.until(lambda: phase(fleet) == "paused")
        await asyncio.sleep(120.0)
        assert phase(fleet) == "paused"
        fails = False
        result = await fleet.result()
    assert (result.version, result.counts["accepted"]) == (2, 6)


async def test_small_budget_gives_leases_one_after_the_other(tmp_path: Path) -> None:
    """`output.disk_bytes` with room for two updates: a round of three cannot end, the operator is told, two are out."""
    versions = 6 * 4096 * -(-4 * (PADDING + 1000) // 4096)
    settings = a_run(tmp_path, output={"disk_bytes": SPARE_BYTES + versions + 2 * UPDATE_BYTES + 4096})
    with structlog.testing.capture_logs() as lines:
        async with Fleet(settings, LinearTask(padding=PADDING), tmp_path) as fleet:
            fleet.start_aggregator()
            for i in range(5):
                fleet.add(f"d{i}")
            await asyncio.sleep(30.0)
            assert fleet.status is not None
            assert fleet.status.states["accepted"] + fleet.status.states["outstanding"] == 2
            assert fleet.status.causes == ["no_room_on_disk_for_leases"]
    (warning,) = [line for line in lines if line["event"] == "disk_too_small_for_a_round"]
    assert warning["needed"] == f"{3 * UPDATE_BYTES / 2**10:.1f} KiB for 3 updates"
    missing_kib, unit = warning["missing"].split()
    assert unit == "KiB"
    assert 0 < float(missing_kib) <= UPDATE_BYTES / 2**10
    assert "32.0 MiB for journal and history" in warning["kept_free"]


async def test_timers_are_stored_for_a_restart(tmp_path: Path) -> None:
    """At least every five seconds, while a window is open."""
    async with Fleet(a_run(tmp_path), LinearTask(), tmp_path) as fleet:
        await begin(fleet)
        for i in range(3):
            await fleet.kill(f"d{i}")
        await asyncio.sleep(12.0)
        left_s = fleet.status.seconds_left if fleet.status else None
        await fleet.kill(AGGREGATOR)
        await asyncio.sleep(1.0)
        fleet.start_aggregator()
        await fleet.until(lambda: fleet.status is not None and fleet.status.online and phase(fleet) == "reporting")
        assert fleet.status is not None
        assert left_s is not None
        assert fleet.status.seconds_left is not None
        assert left_s - 8.0 < fleet.status.seconds_left < left_s + 8.0


async def test_round_that_waits_for_quotas_says_so_once(tmp_path: Path) -> None:
    """Three devices, each of which may take part in every tenth round: the log and the status name the cause."""
    settings = a_run(tmp_path, selection={"min_separation": 10})
    with structlog.testing.capture_logs() as logs:
        async with Fleet(settings, LinearTask(), tmp_path) as fleet:
            await begin(fleet)
            await fleet.until(lambda: fleet.status and "barred_by_quota: 3" in fleet.status.causes)
            await asyncio.sleep(60.0)
    (said,) = [line for line in logs if line["event"] == "waiting_for_quotas"]
    assert (said["barred"], said["have"], said["need"]) == (3, 0, 3)


async def logs_of_waiting_for(
    cause: str, folder: Path, training: dict[str, Any]
) -> tuple[MutableMapping[str, Any], list[MutableMapping[str, Any]]]:
    """Let five devices that may keep nothing wait for a minute; return the one warning, and each device's own line."""
    edge = EdgeSettings(folder=folder, keeps_state=False)
    with structlog.testing.capture_logs() as logs:
        async with Fleet(a_run(folder, training=training), LinearTask(), folder, edge=edge) as fleet:
            fleet.start_aggregator()
            for i in range(5):
                fleet.add(f"d{i}")
            await fleet.until(lambda: fleet.status and f"{cause}: 5" in fleet.status.causes)
            await asyncio.sleep(60.0)
            assert phase(fleet) == "waiting"
    (said,) = [line for line in logs if line["event"].startswith("waiting_for_devices")]
    away = [line for line in logs if line["event"] == "turned_away"]
    assert (said["refused"], said["have"], said["need"]) == (5, 0, 3)
    assert len(away) == 5
    assert not [line for line in logs if line["event"] == "work_begun"]
    return said, away


async def test_round_that_waits_for_devices_that_keep_state_says_so_once(tmp_path: Path) -> None:
    """FedDyn on devices that may keep nothing: each is refused by name, and log and status name the cause."""
    said, away = await logs_of_waiting_for("keep_no_state", tmp_path, {"algorithm": "feddyn", "alpha": 0.1})
    assert said["event"] == "waiting_for_devices_that_keep_state"
    assert {(line["reason"], "keeps_state" in line["what_to_do"]) for line in away} == {("state", True)}


async def test_devices_that_do_not_speak_the_codec_are_told_so_and_so_is_whoever_waits_for_them(tmp_path: Path) -> None:
    """Top-1-percent where nothing may be kept: devices' logs, the aggregator's and its status name cause and cure."""
    said, away = await logs_of_waiting_for("refused_for_codec", tmp_path, {"codec": "top-1-percent"})
    assert said["event"] == "waiting_for_devices_that_speak_the_codec"
    assert {line["reason"] for line in away} == {"codec"}
    assert all("needs a device that keeps state" in line["detail"] for line in away)
    assert all("training.codec" in line["what_to_do"] for line in away)


async def test_devices_without_state_take_part_where_nothing_is_kept(tmp_path: Path) -> None:
    """FedProx and FedAvg need none."""
    edge = EdgeSettings(folder=tmp_path, keeps_state=False)
    settings = a_run(tmp_path, training={"algorithm": "fedprox", "mu": 0.1})
    async with Fleet(settings, LinearTask(), tmp_path, edge=edge) as fleet:
        await begin(fleet)
        assert (await fleet.result()).version == 2
