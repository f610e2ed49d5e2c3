import asyncio
from pathlib import Path

import pytest
import structlog

from edge_client.config import OutboxSettings
from shared.blocking import Lane
from shared.errors import Reason
from shared.messages import Outcome
from tests.edge_client.builders import lease
from tests.edge_client.scene import DEVICE, Scene
from tests.edge_client.tasks import AddOne

pytestmark = pytest.mark.virtual_time

HOUR_S = 3600.0


def _folder(root: Path) -> Path:
    return root / "fleet" / DEVICE


async def test_full_disk_keeps_the_update_in_memory_and_offers_it(tmp_path: Path) -> None:
    """Neither report nor state can be written: the log says so, and the federation gets the update all the same."""
    task = AddOne(1024 * 8, state=True)
    async with Scene(tmp_path, task) as scene:
        with structlog.testing.capture_logs() as logs:
            await scene.start(1, 2)
            await scene.until(lambda: scene.status.online)
            for name in (f"outbox/{lease(1)}.report", f"state/{lease(1)}.run-1.pending"):
                (_folder(tmp_path) / f"{name}.part").mkdir(parents=True)  # in the way of what is to be written
            await scene.until(lambda: lease(1) in scene.aggregator.finals)
            assert not (_folder(tmp_path) / "outbox" / f"{lease(1)}.report").exists()
            await scene.until_final(1, 2)
    said = [line["event"] for line in logs if line["log_level"] == "error"]
    assert said == ["local_state_not_durable", "outbox_not_durable"]
    assert [int(work.state["count"]) if "count" in work.state else 0 for work in task.seen] == [0, 1]


async def test_refused_update_says_why_and_what_to_do_in_one_line(tmp_path: Path) -> None:
    """Reason, detail and advice stand together, and the state of that round is gone."""
    async with Scene(tmp_path, AddOne(), outcome=Outcome.REJECTED) as scene:
        conclude = scene.aggregator.send

        async def send(topic: object, message: object, *, retained: bool = False) -> None:
            if getattr(message, "outcome", None) is Outcome.REJECTED:
                changes = {"reason": Reason.NORM, "detail": "norm 7.1, at most 5"}
                message = message.model_copy(update=changes)  # type: ignore[attr-defined]
            await conclude(topic, message, retained=retained)  # type: ignore[arg-type]

        scene.aggregator.send = send  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as logs:
            await scene.start(1)
            await scene.until_final(1)
    (line,) = [line for line in logs if line["event"] == "report_settled"]
    assert (line["log_level"], line["outcome"], line["lease"]) == ("warning", "rejected", lease(1))
    assert (line["reason"], line["detail"]) == ("norm", "norm 7.1, at most 5")
    assert "server.max_norm" in line["what_to_do"]


async def test_epoch_of_the_past_counts_for_nothing_after_a_reboot(tmp_path: Path) -> None:
    """An aggregator that was superseded gives no work to a device that has seen its successor before the reboot."""
    async with Scene(tmp_path, AddOne()) as scene:
        await scene.start(1)
        await scene.until_final(1)
        await scene.kill_device()
        scene.aggregator.epoch -= 1
        scene.aggregator.orders = [scene.aggregator.order(2)]
        await scene.aggregator.publish_fleet()
        n_check_ins = len(scene.aggregator.check_ins)
        scene.start_device()
        await scene.until(lambda: len(scene.aggregator.check_ins) > n_check_ins + 2)
        assert lease(2) not in scene.aggregator.finals
        scene.aggregator.epoch += 1
        scene.aggregator.orders = [scene.aggregator.order(2)]
        await scene.aggregator.publish_fleet()
        await scene.until_final(2)


async def test_report_that_nobody_wants_goes_after_its_days_without_a_restart(tmp_path: Path) -> None:
    """It is named, and the device, which was idle all the while, forgets it."""
    async with Scene(tmp_path, AddOne(1024 * 8)) as scene:
        scene.settings = scene.settings.model_copy(update={"outbox": OutboxSettings(keep_days=0.1)})
        scene.aggregator.answer_offers = False
        with structlog.testing.capture_logs() as logs:
            await scene.start(1)
            await scene.until(lambda: scene.outbox() == [lease(1)])
            scene.aggregator.orders.clear()  # or it would give the same work again
            await asyncio.sleep(2 * HOUR_S)
            assert scene.outbox() == [lease(1)]
            await asyncio.sleep(2 * HOUR_S)
            assert scene.outbox() == []
        assert [line["cause"] for line in logs if line["event"] == "outbox_entry_dropped"] == ["too old"]
        n_offers = len(scene.aggregator.reports)
        await asyncio.sleep(2 * HOUR_S)
        assert len(scene.aggregator.reports) == n_offers
        assert scene.aggregator.check_ins[-1].holds == []


async def test_fleet_that_takes_smaller_chunks_gets_them_on_the_same_connection(tmp_path: Path) -> None:
    """An aggregator that comes back with another limit is offered the update anew, within it."""
    async with Scene(tmp_path, AddOne(1024 * 16), chunk_bytes=16_384, chunks_a_grant=1) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        assert scene.aggregator.reports[0].chunk_bytes == 16_384
        scene.aggregator.chunk_bytes, scene.aggregator.answer_offers = 4096, True
        await scene.aggregator.publish_fleet()
        await scene.until_final(1)
        assert scene.aggregator.reports[-1].chunk_bytes == 4096
        assert len(scene.aggregator.chunks) == 16
        assert len({check_in.connection for check_in in scene.aggregator.check_ins}) == 1


async def test_damaged_report_keeps_nobody_from_working(tmp_path: Path) -> None:
    """After a reboot it is named with the command, its lease is not held, and the same work is done again."""
    task = AddOne(1024 * 8)
    async with Scene(tmp_path, task, delays={Lane.TRAINING: (0.5, 1.0)}) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        await scene.kill_device()
        path = _folder(tmp_path) / "outbox" / f"{lease(1)}.report"
        path.write_bytes(path.read_bytes()[:-1])
        scene.aggregator.answer_offers = True
        with structlog.testing.capture_logs() as logs:
            scene.start_device()
            await scene.until_final(1)
        (line,) = [line for line in logs if line["event"] == "outbox_entry_damaged"]
        assert f"python -m edge_client outbox discard {lease(1)}" in line["remedy"]
        assert len(task.seen) == 2
        assert path.with_suffix(".damaged").exists()
