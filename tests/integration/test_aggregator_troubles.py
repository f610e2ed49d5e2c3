"""What may happen around the aggregator, in virtual time, and must neither end its run nor leave it waiting."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from broker.faults import Faults
from shared.messages import CheckIn, Round
from shared.topics import CheckInTopic
from shared.wire import decode, encode
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings

TOO_SMALL = Faults(max_payload_bytes=2048)
"""A limit under the size of a chunk."""


def _phase(fleet: Fleet) -> str:
    return fleet.status.phase if fleet.status else ""


async def _begin(fleet: Fleet, n_devices: int) -> None:
    fleet.start_aggregator()
    for i in range(n_devices):
        fleet.add(f"d{i}")
    await fleet.until(lambda: _phase(fleet) == "reporting")


async def test_clock_that_cannot_be_stored_pauses_the_run_until_it_can(tmp_path: Path) -> None:
    """A journal that takes no more is waited for, whoever meets it first."""
    settings = some_settings(tmp_path, stop={"rounds": 1})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        await _begin(fleet, 3)
        for i in range(3):  # the round goes on while the clock is looked at
            await fleet.kill(f"d{i}")
        with closing(sqlite3.connect(tmp_path / "runs" / "test" / "journal.sqlite")) as other:
            other.execute("ALTER TABLE clock RENAME TO elsewhere")
            await fleet.until(lambda: _phase(fleet) == "paused")
            assert fleet.status is not None
            assert fleet.status.causes[0].startswith("disk")
            other.execute("ALTER TABLE elsewhere RENAME TO clock")
        await fleet.until(lambda: _phase(fleet) != "paused")
        for i in range(3):
            fleet.start(f"d{i}")
        assert (await fleet.result()).version == 1


async def test_version_that_the_broker_does_not_take_is_published_once_it_does(tmp_path: Path) -> None:
    """The round waits for it, and ends; nobody has to restart anything."""
    settings = some_settings(tmp_path, stop={"rounds": 2})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        await _begin(fleet, 6)
        fleet.broker.faults = TOO_SMALL
        await fleet.until(lambda: _phase(fleet) == "aggregating")
        await asyncio.sleep(300.0)
        assert _phase(fleet) == "aggregating"
        fleet.broker.faults = Faults()
        assert (await fleet.result()).version == 2


async def test_limit_that_changes_while_the_run_is_served_does_not_end_it(tmp_path: Path) -> None:
    """At a reconnect it is waited out like a lost link; only a start refuses it. Parked reports come soon."""
    settings = some_settings(tmp_path, stop={"rounds": 2})
    async with Fleet(settings, LinearTask(), tmp_path) as fleet:
        await _begin(fleet, 6)
        fleet.broker.faults = TOO_SMALL
        fleet.broker.cut(AGGREGATOR)
        await asyncio.sleep(300.0)
        assert fleet.is_running(AGGREGATOR)
        fleet.broker.faults = Faults()
        async with asyncio.timeout(180.0):
            assert (await fleet.result()).version == 2


@pytest.mark.parametrize("turns", range(8))
async def test_aggregator_that_is_told_to_end_while_its_link_breaks_ends(tmp_path: Path, turns: int) -> None:
    """A cancel in the very moment of a loss is not forgotten, whichever comes first."""
    async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path) as fleet:
        await _begin(fleet, 6)
        life = fleet._alive[AGGREGATOR].task
        fleet.broker.cut(AGGREGATOR)
        for _ in range(turns):
            await asyncio.sleep(0)
        life.cancel()
        await asyncio.wait([life], timeout=60.0)
        assert life.cancelled()


async def test_many_who_miss_the_model_are_served_by_looking_once(tmp_path: Path) -> None:
    """A fleet that asks at once does not keep the next version waiting."""
    async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        await fleet.until(lambda: _phase(fleet) == "waiting")
        manifest = decode(Round, fleet.broker.retained[f"{fleet.topics.root}/run/test/round"])
        missing = CheckIn(boot="b", connection=1, protocols=[1], codecs=[], missing=manifest.model.digest)
        with structlog.testing.capture_logs() as logs:
            async with fleet.broker.transport("many").connect() as connection:
                topics = [fleet.topics.build(CheckInTopic(f"d{i}")) for i in range(100)]
                await asyncio.gather(*(connection.publish(topic, encode(missing)) for topic in topics))
            await asyncio.sleep(60.0)
        assert 1 <= [line["event"] for line in logs].count("model_repaired") <= 5
