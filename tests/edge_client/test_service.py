import asyncio
from pathlib import Path
from random import Random

import numpy as np
import pytest
import structlog

from broker.link import LinkProfile
from edge_client.advice import TURNED_AWAY
from edge_client.config import EligibilitySettings
from edge_client.eligibility import Conditions
from edge_client.service import EdgeClient
from shared.blocking import Lane
from shared.errors import AlreadyServed, ConfigError, CredentialsRefused, Reason
from shared.messages import Kind, Outcome, Reported, RoundState
from shared.task import Arrays, Client, ClientId, Initial, Trained, Work
from simulator.inline_blocking import InlineBlocking
from tests.edge_client.builders import lease
from tests.edge_client.scene import DEVICE, Scene
from tests.edge_client.tasks import AddOne, Scripted

pytestmark = pytest.mark.virtual_time


async def test_large_update_goes_up_in_granted_chunks(tmp_path: Path) -> None:
    """Check in, fetch, train, offer, upload, receipt; then idle again, and the next lease."""
    async with Scene(tmp_path, AddOne(20_000)) as scene:
        await scene.start(1, 2)
        await scene.until_final(1, 2)
        for number in (1, 2):
            assert (scene.aggregator.deltas[lease(number)] == 1).all()
        assert [report.lease for report in scene.aggregator.reports] == [lease(1), lease(2)]
        assert sorted(scene.aggregator.chunks) == [(lease(number), i) for number in (1, 2) for i in range(20)]
        assert scene.status.phase == "idle"


async def test_small_update_travels_in_its_report(tmp_path: Path) -> None:
    """Up to the fleet's inline size there is one message."""
    async with Scene(tmp_path, AddOne(200)) as scene:
        await scene.start(1, codec="float16")
        await scene.until_final(1)
        (report,) = scene.aggregator.reports
        assert report.data == np.ones(200, "<f2").tobytes()
        assert report.chunk_bytes is None
        assert scene.aggregator.chunks == []


async def test_model_is_fetched_once_for_many_leases(tmp_path: Path) -> None:
    """The cache has it by its digest; a new version is fetched, nothing of the old one again."""
    async with Scene(tmp_path, AddOne(5_000)) as scene:
        await scene.start(1, 2)
        await scene.until_final(1, 2)
        scene.aggregator.add_to_model(1)
        await scene.aggregator.publish_model()
        scene.aggregator.orders.append(scene.aggregator.order(3))
        await scene.until_final(3)
        assert isinstance(scene.task, AddOne)
        assert [work.round_id for work in scene.task.seen] == [1, 1, 1]
        folders = list((tmp_path / "fleet" / DEVICE / "models").iterdir())
        assert len(folders) == 2


async def test_evaluation_is_reported(tmp_path: Path) -> None:
    """A lease of kind `evaluate` yields metrics and no update."""
    async with Scene(tmp_path) as scene:
        await scene.start(1, kind=Kind.EVALUATE, work=None)
        await scene.until_final(1)
        (report,) = scene.aggregator.reports
        assert (report.outcome, report.metrics) == (Reported.EVALUATED, {"accuracy": (2.0, 4.0)})


async def test_training_that_raises_is_reported_and_the_device_goes_on(tmp_path: Path) -> None:
    """One failed lease, then the next is trained."""

    def train(parameters: Arrays, work: Work) -> Trained:
        if work.seed == 1:
            raise ValueError("bad data")
        return Trained(parameters=parameters, num_examples=1, n_steps=1)

    async with Scene(tmp_path, Scripted(script=train)) as scene:
        await scene.start(1, 2)
        await scene.until_final(1, 2)
        first, second = scene.aggregator.reports
        assert (first.outcome, first.error) == (Reported.FAILED, "ValueError")
        assert second.outcome is Reported.TRAINED


async def test_local_state_follows_the_outcome(tmp_path: Path) -> None:
    """State is what was accepted last: not what was refused, not what has no outcome yet."""
    task = AddOne(state=True)
    async with Scene(tmp_path, task) as scene:
        await scene.start(1, 2, 3)
        aggregator = scene.aggregator
        await scene.until_final(1, 2, 3)
        assert [dict(work.state) for work in task.seen] == [{}, {"count": 1.0}, {"count": 2.0}]
        assert all(receipt.outcome is Outcome.ACCEPTED for receipt in aggregator.finals.values())
        aggregator.outcome = Outcome.REJECTED
        aggregator.orders += [aggregator.order(4), aggregator.order(5)]
        await scene.until_final(4, 5)
        assert [dict(work.state) for work in task.seen[3:]] == [{"count": 3.0}, {"count": 3.0}]


async def test_what_a_codec_leaves_out_follows_the_outcome(tmp_path: Path) -> None:
    """By hand: 200 ones a training, two of which are sent; a refused update takes nothing of what was left out."""
    task = AddOne(200, state=True)
    async with Scene(tmp_path, task, codec="top-1-percent") as scene:
        await scene.start()
        outcomes = (Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED, Outcome.ACCEPTED)
        for number, outcome in enumerate(outcomes, start=1):
            scene.aggregator.outcome = outcome
            scene.aggregator.orders.append(scene.aggregator.order(number))
            await scene.until_final(number)
        sent = [scene.aggregator.deltas[lease(number)] for number in (1, 2, 3, 4)]
        places = [np.flatnonzero(delta).tolist() for delta in sent]
        assert (places, [delta.max() for delta in sent]) == ([[0, 1], [2, 3], [2, 3], [4, 5]], [1, 2, 2, 3])
        assert [dict(work.state) for work in task.seen] == [{}, {"count": 1}, {"count": 1}, {"count": 2}]


async def test_cancelled_training_stops_and_reports_nothing(tmp_path: Path) -> None:
    """The round was committed without this device: it is idle at once, and takes the next lease."""
    async with Scene(tmp_path, delays={Lane.TRAINING: (50.0, 50.0)}) as scene:
        await scene.start(1)
        await scene.until(lambda: scene.status.phase == "training")
        await scene.aggregator.cancel(DEVICE, 1)
        await scene.until(lambda: scene.status.phase == "idle", within_s=1)
        scene.aggregator.orders = [scene.aggregator.order(2)]
        await scene.until_final(2)
        assert [report.lease for report in scene.aggregator.reports] == [lease(2)]
        assert scene.outbox() == []


async def test_status_shows_progress_while_training(tmp_path: Path) -> None:
    """The lease is renewed by it: phase, round, lease and how far."""

    def train(parameters: Arrays, work: Work) -> Trained:
        work.progress(3, 4)
        return Trained(parameters=parameters, num_examples=1, n_steps=1)

    async with Scene(tmp_path, Scripted(script=train), delays={Lane.TRAINING: (100.0, 100.0)}) as scene:
        await scene.start(1)
        await scene.until(lambda: scene.status.progress == 0.75)
        assert (scene.status.phase, scene.status.round, scene.status.lease) == ("training", 1, lease(1))
        assert scene.status.online
        await scene.until_final(1)


async def test_device_started_before_the_aggregator_takes_part(tmp_path: Path) -> None:
    """Its first check-in is heard by nobody; the first word of the aggregator makes it check in again."""
    async with Scene(tmp_path) as scene:
        scene.start_device()
        await asyncio.sleep(1)
        scene.aggregator.orders = [scene.aggregator.order(1)]
        await scene.start_aggregator()
        await scene.until_final(1, within_s=20)


async def test_finished_run_ends_the_service(tmp_path: Path) -> None:
    """In process `run` returns once the run is over and nothing is left in the outbox."""
    async with Scene(tmp_path) as scene:
        await scene.start(1)
        await scene.until_final(1)
        await scene.aggregator.publish_round(RoundState.FINISHED)
        async with asyncio.timeout(1):
            await scene.device
        assert not scene.status.online


async def test_finished_run_may_be_waited_out(tmp_path: Path) -> None:
    """A device of the command line waits for the next run."""
    async with Scene(tmp_path) as scene:
        await scene.start_aggregator()
        scene.start_device(until_finished=False)
        await scene.aggregator.publish_round(RoundState.FINISHED)
        await asyncio.sleep(1000)
        scene.aggregator.epoch += 1
        scene.aggregator.run = "run-2"
        scene.aggregator.orders = [scene.aggregator.order(1)]
        await scene.aggregator.publish_model()
        await scene.aggregator.publish_fleet()
        await scene.until_final(1, within_s=40)


async def test_stop_says_goodbye_and_keeps_the_outbox(tmp_path: Path) -> None:
    """SIGTERM: the status is offline in the device's own words, unfinished reports stay."""
    async with Scene(tmp_path, AddOne(20_000)) as scene:
        scene.aggregator.answer_offers = False
        await scene.start(1)
        await scene.until(lambda: scene.aggregator.reports)
        scene.client.stop()
        await scene.device
        assert not scene.status.online
        assert scene.outbox() == [lease(1)]
        assert DEVICE not in scene.broker.connected


async def test_kill_is_told_by_the_will(tmp_path: Path) -> None:
    """The broker says what the device could not."""
    async with Scene(tmp_path) as scene:
        await scene.start()
        await scene.until(lambda: scene.status.online)
        boot = scene.status.boot
        await scene.kill_device()
        assert (scene.status.online, scene.status.boot, scene.status.connection) == (False, boot, 1)


async def test_second_process_on_the_folder_is_refused(tmp_path: Path) -> None:
    """One process a device."""
    async with Scene(tmp_path) as scene:
        await scene.start()
        await scene.until(lambda: scene.status.online)
        other = EdgeClient(scene.settings, scene.task, Client(id=ClientId(DEVICE)), scene.broker.transport("other"))
        with pytest.raises(AlreadyServed):
            await other.run()


async def test_refused_credentials_end_it_at_once(tmp_path: Path) -> None:
    """Trying again changes nothing."""
    async with Scene(tmp_path) as scene:
        scene.broker.refuse(DEVICE)
        client = EdgeClient(
            scene.settings,
            scene.task,
            Client(id=ClientId(DEVICE)),
            scene.broker.transport(DEVICE),
            run_blocking=InlineBlocking(Random(1)),
        )
        with pytest.raises(CredentialsRefused):
            await client.run()


async def test_task_that_cannot_say_its_model_is_refused(tmp_path: Path) -> None:
    """Whatever `initial_parameters` raises is named."""

    class Broken(AddOne):
        def initial_parameters(self, seed: int) -> Initial:
            raise OSError("no such file")

    async with Scene(tmp_path) as scene:
        client = EdgeClient(
            scene.settings,
            Broken(),
            Client(id=ClientId(DEVICE)),
            scene.broker.transport(DEVICE),
            run_blocking=InlineBlocking(Random(1)),
        )
        with pytest.raises(ConfigError, match="OSError: no such file"):
            await client.run()


async def test_refused_spec_names_the_parameter_in_log_and_status(tmp_path: Path) -> None:
    """The operator reads what differs, and the device stays away from work for hours."""
    async with Scene(tmp_path, AddOne(10), refuse=Reason.SPEC) as scene:
        await scene.start_aggregator()
        with structlog.testing.capture_logs() as logs:
            scene.start_device(task=AddOne(11))
            await scene.until(lambda: DEVICE in scene.broker.connected and scene.status.detail)
            await asyncio.sleep(3600)
        said = [line for line in logs if line["event"] in ("turned_away", "spec_differs")]
        assert [line["event"] for line in said] == ["turned_away", "spec_differs"]
        assert said[0]["what_to_do"] == TURNED_AWAY[Reason.SPEC]
        assert "detail" not in said[0]
        assert "w float32[11] trainable here, w float32[10] trainable there" in said[1]["parameter"]
        assert scene.status.refusal == "spec"
        assert scene.status.detail == said[1]["parameter"]
        assert len(scene.aggregator.check_ins) == 1


async def test_garbage_from_the_broker_has_no_effect(tmp_path: Path) -> None:
    """Bytes that are no message, topics that are none of ours: named in the log, and life goes on."""
    async with Scene(tmp_path) as scene:
        await scene.start()
        await scene.until(lambda: scene.status.online)
        connection = scene.aggregator.connection
        assert connection is not None
        with structlog.testing.capture_logs() as logs:
            for topic in ("assignment", "receipt", "control"):
                for payload in (b"x", b"\xc1", b"\x80", b"\x81\xa1v\x02", bytes(5000)):
                    await connection.publish(f"fl/v1/fleet/to/{DEVICE}/{topic}", payload)
            await connection.publish("fl/v1/fleet/fleet", b"garbage", retained=True)
            await asyncio.sleep(1)
        assert sum(line["event"] == "message_refused" for line in logs) == 16
        scene.aggregator.orders = [scene.aggregator.order(1)]
        await scene.until_final(1)


async def test_device_refuses_by_its_own_rules_until_they_hold(tmp_path: Path) -> None:
    """Reason and numbers are in status and check-in; a change is told at the next look, and work comes then."""
    async with Scene(tmp_path) as scene:
        scene.settings = scene.settings.model_copy(update={"eligibility": EligibilitySettings(min_battery=0.5)})
        scene.conditions = Conditions(battery=0.2)
        await scene.start()
        await scene.until(lambda: scene.status.refusal is Reason.BATTERY)
        assert scene.status.detail == "battery at 20.0%, under 50.0%"
        assert scene.status.conditions == {"battery": 0.2}
        await scene.until(lambda: any(each.refusal is Reason.BATTERY for each in scene.aggregator.check_ins))
        scene.conditions = Conditions(battery=0.6)
        await scene.until(lambda: scene.status.refusal is None, within_s=61)
        assert scene.aggregator.check_ins[-1].refusal is None


async def test_report_says_where_the_time_went(tmp_path: Path) -> None:
    """Fetching and training, and how long there was no link meanwhile."""
    link = LinkProfile(latency_s=1.0)
    async with Scene(tmp_path, link=link, delays={Lane.TRAINING: (50.0, 50.0)}) as scene:
        await scene.start(1)
        await scene.until(lambda: scene.status.phase == "training")
        scene.broker.cut(DEVICE, for_good=True)
        await asyncio.sleep(20.0)
        scene.broker.mend(DEVICE)
        await scene.until_final(1)
        (report,) = scene.aggregator.reports
        assert report.fetch_seconds >= 4.0  # index and chunk, there and back
        assert report.offline_seconds >= 20.0
        assert report.offline_seconds < 50.0
