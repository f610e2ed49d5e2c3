import asyncio
import re
from pathlib import Path

import pytest
import structlog

from broker.faults import Faults
from broker.link import LinkProfile
from edge_client.advice import TURNED_AWAY
from edge_client.presence import CLONED
from edge_client.upload import MAX_OUTSTANDING
from shared.blocking import Lane
from shared.errors import ConfigError, Reason, leaf_of
from shared.messages import Outcome, RoundState
from tests.edge_client.builders import lease
from tests.edge_client.scene import DEVICE, Scene
from tests.edge_client.tasks import AddOne

pytestmark = pytest.mark.virtual_time

N_CHUNKS = 40
LARGE = AddOne(1024 * N_CHUNKS)
"""Forty chunks of 4096 bytes, either way."""


async def test_link_cut_in_mid_upload_repeats_only_what_was_outstanding(tmp_path: Path) -> None:
    """One offer more, and of the chunks at most those whose PUBACK was out."""
    async with Scene(tmp_path, LARGE, link=LinkProfile(latency_s=0.05), chunks_a_grant=16) as scene:

        def cut(_: str, index: int) -> None:
            if index == 20 and len(scene.aggregator.reports) == 1:
                scene.broker.cut(DEVICE)

        scene.aggregator.on_chunk = cut
        await scene.start(1)
        await scene.until_final(1)
        assert len(scene.aggregator.reports) == 2
        assert len(scene.aggregator.chunks) <= N_CHUNKS + MAX_OUTSTANDING
        assert (scene.aggregator.deltas[lease(1)] == 1).all()
        assert len(LARGE.seen) == 1


async def test_restart_with_a_full_outbox_offers_once(tmp_path: Path) -> None:
    """A finished update survives the reboot: no training again, one offer, one upload."""
    task = AddOne(1024 * 8)
    async with Scene(tmp_path, task) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        await scene.kill_device()
        assert scene.outbox() == [lease(1)]
        scene.aggregator.answer_offers = True
        scene.aggregator.reports.clear()
        scene.start_device()
        await scene.until_final(1)
        assert len(scene.aggregator.reports) == 1
        assert len(scene.aggregator.chunks) == 8
        assert len(task.seen) == 1


async def test_lost_receipt_is_asked_for_again(tmp_path: Path) -> None:
    """The receipt timer offers again, and the same outcome comes again."""
    async with Scene(tmp_path, AddOne(1024 * 8), receipts_to_lose=1) as scene:
        await scene.start(1)
        await scene.until_final(1, within_s=60)
        assert len(scene.aggregator.reports) == 2
        assert len(scene.aggregator.chunks) == 8


async def test_killed_while_training_trains_again(tmp_path: Path) -> None:
    """The next life does not name the lease, so its assignment comes again."""
    task = AddOne()
    async with Scene(tmp_path, task, delays={Lane.TRAINING: (5.0, 5.0)}) as scene:
        await scene.start(1)
        await scene.until(lambda: "pi" in scene.broker.connected and scene.status.phase == "training")
        await scene.kill_device()
        scene.start_device()
        await scene.until_final(1)
        assert len(scene.aggregator.reports) == 1


async def test_link_cut_in_mid_fetch_resumes(tmp_path: Path) -> None:
    """Chunks that have come are not asked for again."""
    async with Scene(tmp_path, LARGE, link=LinkProfile(latency_s=0.05)) as scene:
        await scene.start(1)
        models = tmp_path / "fleet" / DEVICE / "models" / scene.aggregator.model.digest / "bitmap"
        await scene.until(lambda: models.exists() and sum(byte.bit_count() for byte in models.read_bytes()) > 10)
        scene.broker.cut(DEVICE)
        await scene.until(lambda: DEVICE in scene.broker.connected)
        scene.way.received.clear()
        await scene.until_final(1)
        assert sum("/model/" in topic for topic in scene.way.received) < N_CHUNKS - 5


async def test_chunks_are_asked_for_by_topic_and_unsubscribed(tmp_path: Path) -> None:
    """At most sixteen explicit topics a SUBSCRIBE, never a wildcard, each unsubscribed once it has come."""
    async with Scene(tmp_path, LARGE) as scene:
        await scene.start(1)
        await scene.until_final(1)
        asked = [topics for topics in scene.way.subscribed if "/model/" in topics[0]]
        assert max(len(topics) for topics in asked) <= 16
        assert len(asked) < N_CHUNKS / 2
        named = [topic for topics in asked for topic in topics]
        assert len(named) == len(set(named)) == N_CHUNKS
        assert not any("+" in topic or "#" in topic for topic in named)
        assert set(named) <= set(scene.way.unsubscribed)


async def test_chunk_that_does_not_come_is_named_in_a_check_in(tmp_path: Path) -> None:
    """Asked for three times; the aggregator publishes it again, and the work goes on."""
    async with Scene(tmp_path, AddOne(1024 * 8), withheld_chunks={3}) as scene:
        await scene.start(1)
        digest = scene.aggregator.model.digest
        await scene.until(lambda: digest in [check_in.missing for check_in in scene.aggregator.check_ins])
        assert 360 <= scene.aggregator.check_in_times[-1] <= 420
        assert [holding.lease for holding in scene.aggregator.check_ins[-1].holds] == [lease(1)]
        await scene.aggregator.publish_model(withheld=False)
        await scene.until_final(1)


async def test_broker_that_forgets_everything_costs_nothing(tmp_path: Path) -> None:
    """The device comes back, waits for the aggregator's word, and offers what it has."""
    async with Scene(tmp_path, AddOne(1024 * 8)) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        scene.broker.restart()
        scene.aggregator.answer_offers = True
        await scene.restart_aggregator()
        await scene.until_final(1)
        assert len(scene.aggregator.chunks) == 8


async def test_unreachable_broker_is_tried_for_ever(tmp_path: Path) -> None:
    """One log line an attempt with the time of the next; when the broker is there the device is, too."""
    async with Scene(tmp_path) as scene:
        scene.broker.stop()
        with structlog.testing.capture_logs() as logs:
            scene.start_device()
            await asyncio.sleep(3600)
        waits = [line["next_attempt_in_s"] for line in logs if line["event"] == "broker_unreachable"]
        assert 12 < len(waits) < 100
        assert max(waits) <= 300
        assert all("next_attempt_at" in line for line in logs if line["event"] == "broker_unreachable")
        scene.broker.start()
        scene.aggregator.orders = [scene.aggregator.order(1)]
        await scene.start_aggregator()
        await scene.until_final(1)


async def test_cloned_id_stays_away_for_hours(tmp_path: Path) -> None:
    """Two devices with one id push each other out: each stops after the second time, and says so."""
    async with Scene(tmp_path) as scene:
        await scene.start_aggregator()
        scene.start_device(until_finished=False)
        with structlog.testing.capture_logs() as logs:
            clone = scene.broker.transport(DEVICE)
            for _ in range(2):
                await scene.until(lambda: DEVICE in scene.broker.connected)
                await asyncio.sleep(0.1)
                async with clone.connect():
                    await asyncio.sleep(0.1)
            await asyncio.sleep(3 * 3600)
        assert DEVICE not in scene.broker.connected
        (line,) = [line for line in logs if line["event"] == "turned_away"]
        assert (line["reason"], line["detail"]) == ("cloned_id", CLONED)
        assert (line["what_to_do"], line["sooner"]) == (TURNED_AWAY[Reason.CLONED_ID], "a restart asks at once")
        (line,) = [line for line in logs if line["event"] == "staying_away"]
        assert line["cause"] == CLONED
        assert line["next_attempt_at"]
        await asyncio.sleep(2 * 3600)
        assert scene.status.online
        assert scene.status.refusal == "cloned_id"


async def test_clone_that_the_aggregator_noticed_leaves_and_says_so(tmp_path: Path) -> None:
    """Not every broker tells who was pushed out: the aggregator's word is enough."""
    async with Scene(tmp_path, refuse=Reason.CLONED_ID) as scene:
        await scene.start_aggregator()
        scene.start_device(until_finished=False)
        await scene.until(lambda: scene.status.refusal == "cloned_id" and DEVICE not in scene.broker.connected)
        assert not scene.status.online
        assert re.fullmatch(re.escape(CLONED) + r"; next try at \d{4}-\d\d-\d\dT.*\+00:00", scene.status.detail)
        await asyncio.sleep(3 * 3600)
        assert DEVICE not in scene.broker.connected
        scene.aggregator.refuse = None
        await asyncio.sleep(2 * 3600)
        assert scene.status.online


async def live_as_a_clone(folder: Path, *, is_told_by_broker: bool) -> None:
    """Take part in one run, with an id that another device has."""
    refuse = None if is_told_by_broker else Reason.CLONED_ID
    async with Scene(folder, refuse=refuse) as scene:
        await scene.start()
        for _ in range(2 if is_told_by_broker else 0):
            await scene.until(lambda: DEVICE in scene.broker.connected)
            await asyncio.sleep(0.1)
            async with scene.broker.transport(DEVICE).connect():
                await asyncio.sleep(0.1)
        await asyncio.sleep(100)
        pytest.fail("it lives on")


@pytest.mark.parametrize("is_told_by_broker", [True, False])
async def test_clone_that_takes_part_in_one_run_ends(tmp_path: Path, is_told_by_broker: bool) -> None:
    """Nobody waits four hours for a command that was to end: the error says what to do, and nothing else is said."""
    with structlog.testing.capture_logs() as logs, pytest.raises(ExceptionGroup) as ended:
        await live_as_a_clone(tmp_path, is_told_by_broker=is_told_by_broker)
    error = leaf_of(ended.value)
    assert isinstance(error, ConfigError)
    assert str(error) == f"device {DEVICE}: {CLONED}"
    assert not {"turned_away", "staying_away"} & {line["event"] for line in logs}


async def test_paused_aggregator_is_asked_again_later(tmp_path: Path) -> None:
    """`busy` keeps the update and says when to ask; the log says it once, and what becomes of the report."""
    async with Scene(tmp_path, busy_answers=5) as scene:
        with structlog.testing.capture_logs() as logs:
            await scene.start(1)
            await scene.until_final(1, within_s=60)
        assert len(scene.aggregator.reports) == 6
        (line,) = [line for line in logs if line["event"] == "busy"]
        assert (line["reason"], line["lease"]) == ("paused", scene.aggregator.reports[0].lease)
        assert "kept" in line["so"]


async def test_link_that_never_lasts_for_a_chunk_gets_smaller_ones(tmp_path: Path) -> None:
    """2 kB/s and ten seconds a connection: chunks of 64 KiB never pass, chunks of 4 KiB do."""
    async with Scene(tmp_path, AddOne(1024 * 24), chunk_bytes=65_536) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        await scene.kill_device()
        scene.aggregator.answer_offers = True
        scene.slow_down(LinkProfile(up_bytes_per_s=2_000))
        scene.start_device()
        cutter = asyncio.create_task(scene.cut_every(15.0))
        await scene.until_final(1)
        cutter.cancel()
        sizes = [report.chunk_bytes for report in scene.aggregator.reports if report.chunk_bytes]
        assert sizes[0] == 65_536
        assert sizes[-1] <= 16_384
        assert (tmp_path / "fleet" / DEVICE / "chunk_bytes").exists()


async def test_brokers_payload_limit_is_kept(tmp_path: Path) -> None:
    """A chunk never exceeds what the broker says it takes, nor does a report with its data."""
    faults = Faults(max_payload_bytes=10_000)
    async with Scene(tmp_path, AddOne(6_000), faults=faults, chunk_bytes=8_192, inline_bytes=262_144) as scene:
        await scene.start(1)
        await scene.until_final(1)
        assert [report.chunk_bytes for report in scene.aggregator.reports] == [8_192]


@pytest.mark.parametrize("seed", range(5))
async def test_lossy_duplicating_reordering_broker_loses_nothing(tmp_path: Path, seed: int) -> None:
    """Messages are lost after their PUBACK, doubled and reordered: every lease ends accepted, each update whole."""
    faults = Faults(lose_acknowledged=0.05, duplicate_qos1=0.2, reorder=0.2, reorder_s=1.0)
    task = AddOne(1024 * 8)
    async with Scene(tmp_path, task, faults=faults) as scene:
        scene.broker._rng.seed(seed)
        await scene.start(1, 2, 3)
        aggregator = scene.aggregator
        await scene.until_final(1, 2, 3)
        assert {receipt.outcome for receipt in aggregator.finals.values()} == {Outcome.ACCEPTED}
        assert all((delta == 1).all() for delta in aggregator.deltas.values())


async def test_update_that_cannot_be_read_any_more_is_dropped_and_said(tmp_path: Path) -> None:
    """Somebody deleted it in mid-upload: the log names the lease, and the device takes the next work."""
    async with Scene(tmp_path, AddOne(1024 * 24)) as scene:

        def delete(_: str, index: int) -> None:
            for path in (tmp_path / "fleet" / DEVICE / "outbox").glob(f"{lease(1)}.report"):
                path.unlink()

        scene.aggregator.on_chunk = delete
        with structlog.testing.capture_logs() as logs:
            await scene.start(1)
            await scene.until(lambda: any(line["event"] == "outbox_entry_unreadable" for line in logs))
        scene.aggregator.orders = [scene.aggregator.order(2)]
        await scene.until_final(2)


async def test_unanswered_update_is_given_up_after_the_run(tmp_path: Path) -> None:
    """The run has finished and nobody answers: after a minute the device lets go, and `run` returns."""
    async with Scene(tmp_path, AddOne(1024 * 8)) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        await scene.aggregator.publish_round(RoundState.FINISHED)
        async with asyncio.timeout(70):
            await scene.device
        assert scene.outbox() == []
