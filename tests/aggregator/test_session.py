"""The aggregator's link in virtual time: who serves a fleet, and what lies on the broker whatever happens to it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from aggregator.announcements import BEAT_S
from aggregator.config import Settings
from aggregator.service import RunResult
from aggregator.session import SILENT_AFTER_S
from broker.transport import Transport, Will
from shared.errors import AlreadyServed, CredentialsRefused
from shared.messages import PROTOCOL_VERSION, AggregatorStatus, CheckIn, Control, Fleet, ModelRef, Round, RoundState
from shared.topics import Topics
from shared.wire import decode, encode, encode_json
from simulator.fleet import AGGREGATOR
from simulator.fleet import Fleet as SimulatedFleet
from tests.integration.linear import LinearTask, some_settings
from tests.integration.second_aggregator import another

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
async def _without_debug() -> None:
    """Asyncio's debug mode would take four times as long."""
    asyncio.get_running_loop().set_debug(False)


def a_run(folder: Path, **tables: Any) -> Settings:
    """Return settings of two rounds of three devices."""
    knobs = {"report_goal": 3, "over_selection": 1.0, "quorum": 1.0}
    return some_settings(folder, **{"round": knobs, "stop": {"rounds": 2}, **tables})


def a_fleet(folder: Path, **tables: Any) -> SimulatedFleet:
    """Return a fleet that nobody serves yet."""
    return SimulatedFleet(a_run(folder, **tables), LinearTask(padding=3000), folder)


def status_of(fleet: SimulatedFleet) -> AggregatorStatus:
    """Return the retained status."""
    assert fleet.status is not None
    return fleet.status


async def serving(fleet: SimulatedFleet) -> AggregatorStatus:
    """Start the aggregator, and wait until it serves."""
    fleet.start_aggregator()
    await fleet.until(lambda: fleet.status is not None and fleet.status.online)
    return status_of(fleet)


async def say(transport: Transport, status: AggregatorStatus, topics: Topics) -> None:
    """Publish a status as another aggregator would."""
    async with transport.connect(will=Will(topics.root, b"", retained=False)) as connection:
        topic = f"{topics.root}/aggregator/status"
        await connection.publish(topic, encode_json(status), retained=True)


def retained(fleet: SimulatedFleet, below: str) -> dict[str, bytes]:
    """Return what is retained below a topic of the fleet."""
    prefix = f"{fleet.topics.root}/{below}"
    return {topic: payload for topic, payload in fleet.broker.retained.items() if topic.startswith(prefix)}


def manifest_of(fleet: SimulatedFleet) -> Round:
    """Return the manifest on the broker."""
    return decode(Round, fleet.broker.retained[f"{fleet.topics.root}/run/test/round"])


def assert_published(fleet: SimulatedFleet, model: ModelRef) -> None:
    """Limits, manifest, every piece of the index and of the model are there."""
    limits = decode(Fleet, fleet.broker.retained[f"{fleet.topics.root}/fleet"])
    assert limits.run == "test"
    assert len(retained(fleet, f"run/test/index/{model.digest}/")) >= 1
    assert sum(map(len, retained(fleet, f"run/test/model/{model.digest}/").values())) == 4 * 3008


async def test_first_model_is_published_before_anybody_comes(tmp_path: Path) -> None:
    """Limits, model and manifest; nobody is needed for that."""
    async with a_fleet(tmp_path) as fleet:
        status = await serving(fleet)
        assert (status.phase, status.version) == ("waiting", 0)
        assert_published(fleet, manifest_of(fleet).model)


async def test_check_in_that_follows_at_once_on_the_limits_is_answered(tmp_path: Path) -> None:
    """Whoever reads who serves may speak: the answer does not wait until it asks again, after a life or a lost link."""
    async with a_fleet(tmp_path) as fleet:
        root, answers = fleet.topics.root, asyncio.Queue[Control]()

        async def speak(transport: Transport) -> None:
            async with transport.connect() as connection:
                await connection.subscribe([f"{root}/fleet", f"{root}/to/quick/control"])
                async for message in connection.messages():
                    if message.topic == f"{root}/fleet":
                        ours = CheckIn(boot="b", connection=1, protocols=[PROTOCOL_VERSION], codecs=["float32"])
                        await connection.publish(f"{root}/from/quick/check-in", encode(ours))
                    else:
                        answers.put_nowait(decode(Control, message.payload))

        speaking = asyncio.ensure_future(speak(fleet.broker.transport("quick")))
        fleet.start_aggregator()
        async with asyncio.timeout(5.0):
            await answers.get()
        fleet.broker.cut(AGGREGATOR)
        async with asyncio.timeout(60.0):
            await answers.get()
        speaking.cancel()


@pytest.mark.parametrize("run", ["test", "other"])
async def test_second_aggregator_on_a_fleet_steps_back_naming_the_first(tmp_path: Path, run: str) -> None:
    """From another folder, whether it is the same run or not; it publishes nothing, the first serves on."""
    async with a_fleet(tmp_path) as fleet:
        first = await serving(fleet)
        before = dict(fleet.broker.retained)
        settings = a_run(tmp_path / "elsewhere").model_copy(update={"run": run})
        with pytest.raises(AlreadyServed, match=first.instance) as caught:
            await another(fleet, settings).run()
        assert caught.value.exit_code == 4
        await asyncio.sleep(5.0)
        assert status_of(fleet).instance == first.instance
        assert status_of(fleet).online
        assert retained(fleet, "run/") == {t: p for t, p in before.items() if "/run/" in t}


def a_stranger(fleet: SimulatedFleet, **fields: Any) -> AggregatorStatus:
    """Return the status of an aggregator that serves another run."""
    ours: dict[str, Any] = {"online": True, "epoch": 2_000_000_000, "instance": "stranger", "run": "other"}
    return AggregatorStatus.model_validate({**ours, **fields})


async def test_status_that_a_dead_aggregator_left_on_the_broker_is_waited_out(tmp_path: Path) -> None:
    """It died together with a broker that keeps things: nothing follows, so the newcomer says so and takes over."""
    async with a_fleet(tmp_path) as fleet:
        await say(fleet.broker.transport("other"), a_stranger(fleet), fleet.topics)
        with structlog.testing.capture_logs() as lines:
            fleet.start_aggregator()
            await asyncio.sleep(SILENT_AFTER_S - 1.0)
            assert status_of(fleet).instance == "stranger"
            await fleet.until(lambda: status_of(fleet).instance != "stranger")
        assert asyncio.get_running_loop().time() < SILENT_AFTER_S + 5.0
        assert status_of(fleet).epoch > 2_000_000_000
        events = [line["event"] for line in lines if line.get("instance") == "stranger"]
        assert events == ["fleet_may_be_served", "fleet_taken_over"]
        (waits,) = [line for line in lines if line["event"] == "fleet_may_be_served"]
        assert "without one it takes the fleet over" in waits["waits_for"]


async def test_aggregator_that_says_anything_more_is_alive(tmp_path: Path) -> None:
    """However late within the wait, and whatever it says: the newcomer steps back."""
    async with a_fleet(tmp_path) as fleet:
        await say(fleet.broker.transport("other"), a_stranger(fleet, beat=1), fleet.topics)
        newcomer = asyncio.ensure_future(another(fleet, fleet.settings).run())
        await asyncio.sleep(SILENT_AFTER_S - 1.0)
        await say(fleet.broker.transport("other"), a_stranger(fleet, beat=2), fleet.topics)
        with pytest.raises(AlreadyServed, match="stranger"):
            await newcomer


async def test_repeated_message_is_no_sign_of_life(tmp_path: Path) -> None:
    """A broker may deliver a message twice: it takes another beat."""
    async with a_fleet(tmp_path) as fleet:
        await say(fleet.broker.transport("other"), a_stranger(fleet, beat=1), fleet.topics)
        fleet.start_aggregator()
        await asyncio.sleep(1.0)
        await say(fleet.broker.transport("other"), a_stranger(fleet, beat=1), fleet.topics)
        await fleet.until(lambda: status_of(fleet).instance != "stranger")


async def test_will_of_the_aggregator_before_ends_the_wait(tmp_path: Path) -> None:
    """The broker finds out that it is dead: there is nobody to wait for."""
    async with a_fleet(tmp_path) as fleet:
        await say(fleet.broker.transport("other"), a_stranger(fleet), fleet.topics)
        fleet.start_aggregator()
        await asyncio.sleep(2.0)
        await say(fleet.broker.transport("other"), a_stranger(fleet, online=False), fleet.topics)
        await asyncio.sleep(2.0)
        assert status_of(fleet).instance != "stranger"


async def test_status_beats_while_nothing_happens(tmp_path: Path) -> None:
    """An aggregator that waits for devices for hours is seen to be alive."""
    async with a_fleet(tmp_path) as fleet:
        first = await serving(fleet)
        beats = []
        for _ in range(4):
            await asyncio.sleep(BEAT_S + 1.0)
            beats.append(status_of(fleet).beat)
        assert beats == sorted(set(beats))
        assert beats[0] > first.beat


async def test_aggregator_that_sees_a_higher_epoch_exits_naming_it(tmp_path: Path) -> None:
    """Two that claimed at once: the one with the lower epoch leaves."""
    async with a_fleet(tmp_path) as fleet:
        ended = asyncio.ensure_future(another(fleet, fleet.settings).run())
        await fleet.until(lambda: fleet.status is not None and fleet.status.online)
        ours = status_of(fleet)
        higher = ours.model_copy(update={"epoch": ours.epoch + 1, "instance": "usurper"})
        await say(fleet.broker.transport("other"), higher, fleet.topics)
        with pytest.raises(AlreadyServed, match="usurper"):
            await ended


@pytest.mark.parametrize("is_online", [True, False])
async def test_aggregator_that_sees_a_lower_epoch_says_again_who_serves(tmp_path: Path, is_online: bool) -> None:
    """An older one that still talks, or its will, does not stay on the broker."""
    async with a_fleet(tmp_path) as fleet:
        ours = await serving(fleet)
        lower = ours.model_copy(update={"epoch": ours.epoch - 1, "instance": "older", "online": is_online})
        await say(fleet.broker.transport("other"), lower, fleet.topics)
        await asyncio.sleep(2.0)
        assert (status_of(fleet).instance, status_of(fleet).online) == (ours.instance, True)


async def test_status_goes_offline_when_the_aggregator_dies_and_its_next_life_claims_above(tmp_path: Path) -> None:
    """The will speaks for the dead, with its epoch; the same run is nobody else's."""
    async with a_fleet(tmp_path) as fleet:
        first = await serving(fleet)
        await fleet.kill(AGGREGATOR)
        await asyncio.sleep(1.0)
        assert (status_of(fleet).online, status_of(fleet).instance) == (False, first.instance)
        assert status_of(fleet).epoch == first.epoch
        second = await serving(fleet)
        assert second.epoch > first.epoch
        assert second.instance != first.instance


async def test_own_status_that_a_dead_life_left_online_is_no_other_aggregator(tmp_path: Path) -> None:
    """The broker never noticed its death: the next life of the same run serves all the same."""
    async with a_fleet(tmp_path) as fleet:
        first = await serving(fleet)
        await fleet.kill(AGGREGATOR)
        await say(fleet.broker.transport("ghost"), first, fleet.topics)
        second = await serving(fleet)
        await fleet.until(lambda: status_of(fleet).instance != first.instance)
        assert status_of(fleet).epoch > second.epoch - 1


async def test_clean_end_is_the_last_word(tmp_path: Path) -> None:
    """The retained status says finished and offline, not what the will would have said; the manifest is finished."""
    async with a_fleet(tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(3):
            fleet.add(f"d{i}")
        result: RunResult = await fleet.result()
        await asyncio.sleep(1.0)
        status = status_of(fleet)
        assert (status.online, status.phase, status.version) == (False, "finished", 2)
        assert manifest_of(fleet).state is RoundState.FINISHED
        assert result.bytes_down >= 2 * 4 * 3008
        assert_published(fleet, manifest_of(fleet).model)


async def test_broker_that_forgot_everything_gets_everything_again(tmp_path: Path) -> None:
    """Limits, status, manifest and every piece of the model, with the same epoch."""
    async with a_fleet(tmp_path) as fleet:
        status = await serving(fleet)
        model = manifest_of(fleet).model
        fleet.broker.restart()
        await fleet.until(lambda: fleet.status is not None)
        assert_published(fleet, model)
        assert (status_of(fleet).epoch, status_of(fleet).instance) == (status.epoch, status.instance)


async def test_missing_piece_is_published_again_and_nothing_else(tmp_path: Path) -> None:
    """A broker that lost one chunk: reading back finds it at the next connection."""
    async with a_fleet(tmp_path) as fleet:
        await serving(fleet)
        model = manifest_of(fleet).model
        lost = f"{fleet.topics.root}/run/test/model/{model.digest}/1"
        fleet.broker._retained.put(lost, b"")
        fleet.broker.cut(AGGREGATOR)
        await fleet.until(lambda: lost in fleet.broker.retained)
        assert_published(fleet, model)


async def test_old_models_leave_the_broker(tmp_path: Path) -> None:
    """After six versions there are the last three, and no fourth."""
    async with a_fleet(tmp_path, stop={"rounds": 6}) as fleet:
        fleet.start_aggregator()
        for i in range(3):
            fleet.add(f"d{i}")
        await fleet.result()
        digests = {topic.split("/")[6] for topic in retained(fleet, "run/test/model/")}
        assert len(digests) == 3
        assert manifest_of(fleet).model.digest in digests


async def test_refused_credentials_end_the_run_at_once(tmp_path: Path) -> None:
    """Trying again changes nothing."""
    async with a_fleet(tmp_path) as fleet:
        fleet.broker.refuse("aggregator-2")
        with pytest.raises(CredentialsRefused) as caught:
            await another(fleet, fleet.settings).run()
        assert caught.value.exit_code == 3


async def test_broker_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    """An hour long, knocking now and then; then it serves, and no round lost a second."""
    async with a_fleet(tmp_path) as fleet:
        fleet.broker.stop()
        fleet.start_aggregator()
        await asyncio.sleep(3600.0)
        assert fleet.is_running(AGGREGATOR)
        fleet.broker.start()
        began = asyncio.get_running_loop().time()
        await fleet.until(lambda: fleet.status is not None and fleet.status.online)
        assert asyncio.get_running_loop().time() - began < 12.0
        assert status_of(fleet).phase == "waiting"
