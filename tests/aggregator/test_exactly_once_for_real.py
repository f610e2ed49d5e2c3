"""Counted exactly once: every row of the protocol's table, on a real Mosquitto, with real processes and SIGKILL.

Each update is a number that nobody else has (`simulator/torture_task.py`), so the model says which were counted, and
how often. The same rows in virtual time, inline and in chunks: `tests/integration/test_exactly_once.py`.
"""

import asyncio
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aggregator.config import Settings
from aggregator.history import RunHistory
from edge_client.files import OnDisk
from edge_client.outbox import Outbox
from simulator.torture_broker import KillableBroker, killable_broker
from simulator.torture_checks import Held, Row, judge, read_rows
from simulator.torture_model import differences, numbers_of
from simulator.torture_notes import read_notes
from simulator.torture_nursery import Nursery, Nursling, nursery
from simulator.torture_plan import CHUNK_BYTES, FLEET, LEARNING_RATE, device_settings
from tests.aggregator.exactly_once import Point

pytestmark = pytest.mark.skipif(shutil.which("mosquitto") is None, reason="needs Mosquitto: apt install mosquitto")

N_PARAMS = 5 * CHUNK_BYTES // 4
"""Updates of five chunks."""
DEVICES = ["d0", "d1", "d2"]
ROUNDS = 2
LOOK_EVERY_S = 0.02
KEEPING = """\
listener 1883
user root
allow_anonymous true
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
"""
"""Mosquitto as its operators set it who want to lose nothing; only root drops its rights, and is told not to."""


class Scene:
    """One broker, one run, three devices in a process each."""

    def __init__(self, folder: Path, broker: KillableBroker, nursery: Nursery) -> None:
        self.folder, self.broker, self._nursery = folder, broker, nursery
        self.run = folder / "runs" / "test"
        self._n_lives = 0
        for name in ("notes", "devices", "logs"):
            (folder / name).mkdir()

    def settings(self, **over: Any) -> dict[str, Any]:
        """Return the settings of the run."""
        knobs = {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0, "window_s": {"min": 20, "max": 60}}
        transfer = {"chunk_bytes": CHUNK_BYTES, "inline_bytes": 0, "check_in_interval_s": 1, "reconnect_window_s": 0.2}
        return {
            "task": "simulator.torture_task:task",
            "fleet": FLEET,
            "run": "test",
            "broker": {"url": self.broker.url, "keepalive_s": 5},
            "round": knobs,
            "training": {"algorithm": "fedsgd", "learning_rate": LEARNING_RATE, "codec": "float32"},
            "evaluation": {"central_every": 0},
            "stop": {"rounds": ROUNDS},
            "transfer": {**transfer, "messages_per_s": 1000},
            "output": {"folder": str(self.folder / "runs"), "keep_best": False},
            **over,
        }

    async def aggregator(self, point: Point | None = None, name: str = "aggregator", **over: Any) -> Nursling:
        """Start a life of the aggregator, which ends by SIGKILL at a point."""
        settings = self.settings(**over)
        Settings.model_validate(settings)
        plan = {"settings": settings, "n_params": N_PARAMS, "point": None if point is None else str(point)}
        return await self._nursery.start(name, "tests.aggregator.killed_aggregator", plan, self.log(name))

    async def device(self, device: str) -> Nursling:
        """Start a life of a device."""
        self._n_lives += 1
        plan = {
            "settings": device_settings(url=self.broker.url, folder=self.folder / "devices"),
            "urls": {device: self.broker.url},
            "n_params": N_PARAMS,
            "notes": str(self.folder / "notes" / f"{self._n_lives:02d}.jsonl"),
        }
        return await self._nursery.start(device, "simulator.torture_devices", plan, self.log(device))

    async def kill(self, child: Nursling) -> None:
        """End a process by SIGKILL."""
        assert await self._nursery.kill(child) == -signal.SIGKILL

    def log(self, name: str) -> Path:
        """Return where a process writes."""
        return self.folder / "logs" / f"{name}.log"

    def said(self, name: str) -> str:
        """Return what a process has written so far."""
        log = self.log(name)
        return log.read_text() if log.exists() else ""

    def rows(self, kind: str) -> list[Row]:
        """Return the rows of a kind that are durable now."""
        journal = self.run / "journal.sqlite"
        try:
            return [row for row in read_rows(journal) if row.kind == kind] if journal.exists() else []
        except sqlite3.OperationalError:  # its table is being made
            return []

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        async with asyncio.timeout(15.0):
            while not condition():  # noqa: ASYNC110 - other processes, which know nothing of us
                await asyncio.sleep(LOOK_EVERY_S)

    async def finish(self) -> None:
        """Wait for the end of the run, then hold every promise to what is left."""
        await self.until((self.run / "final.safetensors").exists)
        await self.until(lambda: not any(self._held()))  # every device has heard what became of its updates
        rows = read_rows(self.run / "journal.sqlite")
        notes = list(read_notes(sorted((self.folder / "notes").glob("*.jsonl"))))
        verdict = judge(rows, notes, self._held())
        assert verdict.violations == []
        assert differences(rows, numbers_of(notes), self.run / "versions", N_PARAMS) == []
        assert (verdict.accepted, verdict.versions) == (ROUNDS * len(DEVICES), ROUNDS)

    def _held(self) -> list[Held]:
        held = []
        for device in DEVICES:
            outbox = Outbox(OnDisk(self.folder / "devices" / FLEET / device / "outbox"), quota_bytes=2**40, keep_s=1e9)
            outbox.load()
            held += [Held(device=device, lease=e.lease, sha256=e.report.sha256 or "") for e in outbox.entries]
        return held

    def updates(self) -> set[str]:
        """Return the leases whose whole update lies on the aggregator's disk."""
        return {path.stem for path in (self.run / "updates").glob("*.update")}


@asynccontextmanager
async def a_scene(folder: Path, *, keeps_everything: bool = False) -> AsyncIterator[Scene]:
    """Start a broker, and what starts everybody else.

    Args:
        folder: of everything.
        keeps_everything: whether what is retained survives the broker's death.
    """
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(killable_broker(folder, Random()))
        if keeps_everything:
            await broker.kill()
            (folder / "mosquitto.conf").write_text(KEEPING.format(folder=folder))
            await broker.start()
        parent = await stack.enter_async_context(nursery())
        listening = asyncio.create_task(parent.listen())
        stack.callback(listening.cancel)
        yield Scene(folder, broker, parent)


async def killed_at(scene: Scene, point: Point) -> dict[str, Nursling]:
    """Start everybody; return the devices once the aggregator has been killed at a point."""
    aggregator = await scene.aggregator(point)
    devices = {device: await scene.device(device) for device in DEVICES}
    async with asyncio.timeout(15.0):
        assert await aggregator.ended() == -signal.SIGKILL
    return devices


async def test_killed_before_accept_is_durable_the_file_is_admitted_again(tmp_path: Path) -> None:
    """Its device is gone for good until the update has been counted."""
    async with a_scene(tmp_path) as scene:
        devices = await killed_at(scene, Point.BEFORE_ACCEPT)
        whole = scene.updates()
        assert whole
        owners = {row.body["device"] for row in scene.rows("lease") if row.lease in whole}
        for device in owners:
            await scene.kill(devices[device])
        await scene.aggregator()
        await scene.until(lambda: whole <= {row.lease for row in scene.rows("accept")})
        for device in owners:
            await scene.device(device)
        await scene.finish()


async def test_killed_after_accept_before_the_receipt_the_repeated_offer_gets_the_same_outcome(tmp_path: Path) -> None:
    """It is there once, and its device hears `accepted` from the next life."""
    async with a_scene(tmp_path) as scene:
        await killed_at(scene, Point.AFTER_ACCEPT)
        accepted = {row.lease for row in scene.rows("accept")}
        assert accepted
        await scene.aggregator()
        await scene.finish()


@pytest.mark.parametrize("point", [Point.BEFORE_VERSION, Point.AFTER_VERSION], ids=["unwritten", "uncommitted"])
async def test_killed_while_aggregating_it_is_folded_again_to_the_same_bits(tmp_path: Path, point: Point) -> None:
    """Whether the version file was written or not."""
    async with a_scene(tmp_path) as scene:
        await killed_at(scene, point)
        assert (scene.run / "versions" / "00000001.safetensors").exists() == (point is Point.AFTER_VERSION)
        assert not scene.rows("commit")
        await scene.aggregator()
        await scene.finish()


async def test_killed_after_commit_before_the_manifest_it_is_published_again_version_unchanged(tmp_path: Path) -> None:
    """One COMMIT a version; devices go on from it, and the round has its line of history."""
    async with a_scene(tmp_path) as scene:
        await killed_at(scene, Point.AFTER_COMMIT)
        assert len(scene.rows("commit")) == 1
        await scene.aggregator()
        await scene.finish()
        rounds = RunHistory.read(scene.run / "history.jsonl").rounds
        assert [(each.version, set(each.participants)) for each in rounds] == [(1, set(DEVICES)), (2, set(DEVICES))]


async def test_broker_killed_with_all_it_knew_everything_is_published_and_offered_again(tmp_path: Path) -> None:
    """In the middle of the first round's reports: Mosquitto comes back empty."""
    async with a_scene(tmp_path) as scene:
        await scene.aggregator()
        for device in DEVICES:
            await scene.device(device)
        await scene.until(lambda: scene.rows("lease"))
        await scene.broker.kill()
        assert len(scene.rows("accept")) < len(DEVICES)
        await scene.broker.start()
        await scene.finish()


async def test_device_killed_with_a_finished_update_offers_it_once_after_the_reboot(tmp_path: Path) -> None:
    """All are killed, with updates in outboxes that nobody has accepted: not trained again, each counted once."""
    async with a_scene(tmp_path) as scene:
        devices = await killed_at(scene, Point.BEFORE_ACCEPT)
        outboxes = scene.folder / "devices" / FLEET
        await scene.until(lambda: list(outboxes.glob("*/outbox/*.report")))
        for child in devices.values():
            await scene.kill(child)
        assert not scene.rows("accept")
        await scene.aggregator()
        for device in DEVICES:
            await scene.device(device)
        await scene.finish()


async def test_journal_shorter_than_its_head_gets_its_accept_back_from_the_file(tmp_path: Path) -> None:
    """The last row is lost although it had been durable: the file of the update holds it, too."""
    async with a_scene(tmp_path) as scene:
        await killed_at(scene, Point.AFTER_ACCEPT)
        with closing(sqlite3.connect(scene.run / "journal.sqlite")) as database:
            seq, kind, lease = database.execute("SELECT seq, kind, lease FROM journal ORDER BY seq DESC").fetchone()
            assert kind == "accept"
            database.execute("DELETE FROM journal WHERE seq = ?", (seq,))
            database.commit()
        await scene.aggregator()
        await scene.until(lambda: lease in {row.lease for row in scene.rows("accept")})
        await scene.finish()


async def test_second_aggregator_in_the_same_folder_exits_naming_the_first(tmp_path: Path) -> None:
    """Exit code 4, with the pid; the first is not disturbed."""
    async with a_scene(tmp_path) as scene:
        first = await scene.aggregator()
        await scene.until(lambda: scene.rows("epoch"))
        second = await scene.aggregator(name="second")
        assert await second.ended() == 4
        assert f"pid {first.pid}" in scene.said("second")
        for device in DEVICES:
            await scene.device(device)
        await scene.finish()


async def test_second_aggregator_elsewhere_exits_naming_the_first(tmp_path: Path) -> None:
    """It waits for a sign of life, hears one, and has published nothing."""
    async with a_scene(tmp_path) as scene:
        await scene.aggregator()
        await scene.until(lambda: scene.rows("epoch"))
        (epoch,) = scene.rows("epoch")
        elsewhere = {"folder": str(tmp_path / "elsewhere"), "keep_best": False}
        second = await scene.aggregator(name="second", run="other", output=elsewhere)
        await scene.until(lambda: "fleet_may_be_served" in scene.said("second"))
        early, *late = DEVICES
        await scene.device(early)  # something happens, so that its status changes at once; too few for a round
        async with asyncio.timeout(15.0):
            assert await second.ended() == 4
        for device in late:
            await scene.device(device)
        assert epoch.body["instance"] in scene.said("second")
        await scene.finish()


async def test_aggregator_that_died_together_with_a_broker_that_keeps_things_is_taken_over_from(tmp_path: Path) -> None:
    """Its retained status says `online` for ever; another run waits for a second word, and then serves the fleet."""
    async with a_scene(tmp_path, keeps_everything=True) as scene:
        elsewhere = {"folder": str(tmp_path / "elsewhere"), "keep_best": False}
        first = await scene.aggregator(name="first", run="other", output=elsewhere)
        await scene.until(lambda: "serving" in scene.said("first"))
        saved = tmp_path / "mosquitto.db"
        await scene.until(lambda: saved.exists() and b'"online":true' in saved.read_bytes())
        await scene.broker.kill()
        await scene.kill(first)
        await scene.broker.start()
        await scene.aggregator()
        await scene.until(lambda: "fleet_may_be_served" in scene.said("aggregator"))
        for device in DEVICES:
            await scene.device(device)
        await scene.finish()
        assert "fleet_taken_over" in scene.said("aggregator")


async def test_of_two_that_serve_one_fleet_the_one_with_the_lower_epoch_exits(tmp_path: Path) -> None:
    """Each claimed it while the other was not to be seen: stopped, as a machine that sleeps, until the other served."""
    async with a_scene(tmp_path) as scene:
        first = await scene.aggregator()
        await scene.until(lambda: scene.rows("epoch"))
        (epoch,) = scene.rows("epoch")
        os.kill(first.pid, signal.SIGSTOP)
        await scene.broker.kill()
        await scene.broker.start()
        elsewhere = {"folder": str(tmp_path / "elsewhere"), "keep_best": False}
        await scene.until(lambda: time.time() >= epoch.body["epoch"] + 1)  # epochs are Unix seconds
        await scene.aggregator(name="second", run="test", output=elsewhere)
        await scene.until(lambda: "serving" in scene.said("second"))
        os.kill(first.pid, signal.SIGCONT)
        async with asyncio.timeout(15.0):
            assert await first.ended() == 4
        assert "is served by another aggregator" in scene.said("aggregator")
        scene.run = tmp_path / "elsewhere" / "test"
        for device in DEVICES:
            await scene.device(device)
        await scene.finish()
