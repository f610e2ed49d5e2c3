import asyncio
from pathlib import Path

import pytest

from broker.faults import Faults
from shared.errors import InvalidState
from simulator.fleet import AGGREGATOR, Fleet
from tests.integration.linear import LinearTask, some_settings

pytestmark = pytest.mark.virtual_time


async def test_killed_device_says_no_goodbye_and_comes_back_as_another_life(tmp_path: Path) -> None:
    """The broker speaks for the dead, and the next life has another boot nonce."""
    async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path) as fleet:
        fleet.add("d1")
        await fleet.until(lambda: fleet.status_of("d1"))
        first = fleet.status_of("d1")
        await fleet.kill("d1")
        last = fleet.status_of("d1")
        assert first is not None
        assert last is not None
        assert (first.online, last.online, last.boot) == (True, False, first.boot)
        assert not fleet.is_running("d1")
        fleet.start("d1")
        await fleet.until(lambda: (now := fleet.status_of("d1")) is not None and now.online)
        second = fleet.status_of("d1")
        assert second is not None
        assert second.boot != first.boot


async def test_service_that_runs_is_not_started_twice(tmp_path: Path) -> None:
    """Two lives of one device at a time are a mistake of whoever holds the fleet."""
    async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path) as fleet:
        fleet.add("d1")
        with pytest.raises(InvalidState, match="d1 is running"):
            fleet.start("d1")


async def test_leaving_the_fleet_kills_everybody(tmp_path: Path) -> None:
    """Nobody is left behind, whatever they were doing."""
    before = asyncio.all_tasks()
    async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path) as fleet:
        fleet.start_aggregator()
        for i in range(4):
            fleet.add(f"d{i}")
        await fleet.until(lambda: fleet.status is not None and fleet.status.phase == "reporting")
    assert asyncio.all_tasks() == before
    assert not fleet.is_running(AGGREGATOR)
    assert fleet.broker.connected == frozenset()


async def test_nobody_has_spoken_yet(tmp_path: Path) -> None:
    """Before its first word a service has no status."""
    async with Fleet(some_settings(tmp_path), LinearTask(), tmp_path, faults=Faults()) as fleet:
        assert fleet.status is None
        assert fleet.status_of("d1") is None
