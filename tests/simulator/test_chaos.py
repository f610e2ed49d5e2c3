import asyncio
from pathlib import Path

import pytest

from shared.errors import FederationError
from simulator.chaos import ChaosEvent, carry_out, read_events
from simulator.scenarios.faults import FleetFault, cut_off

pytestmark = pytest.mark.virtual_time

DEVICES = ["a", "b", "c", "d"]


class Fleet:
    """Takes down what it suffers, and when."""

    def __init__(self, *, absent: str = "") -> None:
        self.suffered: list[tuple[float, str, float]] = []
        self._absent = absent

    async def restart(self, part: str, down_s: float) -> None:
        self._suffer(part, down_s)

    async def cut(self, device: str, lasts_s: float) -> None:
        self._suffer(device, lasts_s)

    def _suffer(self, who: str, seconds: float) -> None:
        if who == self._absent:
            raise FederationError(f"{who} is not there")
        self.suffered.append((asyncio.get_running_loop().time(), who, seconds))


async def test_faults_come_when_the_scenario_says(tmp_path: Path) -> None:
    """Once, and again and again; each is written down."""
    faults = [
        FleetFault(kind="aggregator_restart", at_s=30, lasts_s=4),
        FleetFault(kind="broker_restart", every_s=20, lasts_s=2),
    ]
    fleet = Fleet()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(70):
            await carry_out(faults, DEVICES, seed=1, on=fleet, log=tmp_path / "chaos.jsonl")
    assert fleet.suffered == [(20, "broker", 2), (30, "aggregator", 4), (40, "broker", 2), (60, "broker", 2)]
    events = read_events(tmp_path / "chaos.jsonl")
    assert events[1] == ChaosEvent(at_s=30, kind="aggregator_restart", lasts_s=4)
    assert len(events) == 4


async def test_partition_cuts_off_its_share(tmp_path: Path) -> None:
    """Whom, the scenario's seed decides, as in virtual time."""
    fleet = Fleet()
    fault = FleetFault(kind="partition", at_s=5, lasts_s=7, share=0.5)
    await carry_out([fault], DEVICES, seed=3, on=fleet, log=tmp_path / "log")
    cut = cut_off(DEVICES, 0.5, seed=3, number=1)
    assert fleet.suffered == [(5, device, 7) for device in cut]
    assert read_events(tmp_path / "log") == [ChaosEvent(at_s=5, kind="partition", lasts_s=7, devices=cut)]


async def test_part_that_is_not_there_does_not_end_the_chaos(tmp_path: Path) -> None:
    """It is written down with the cause, and the others are hit."""
    fleet = Fleet(absent="a")
    fault = FleetFault(kind="partition", at_s=5, share=1.0)
    await carry_out([fault], DEVICES, seed=3, on=fleet, log=tmp_path / "log")
    assert [who for _, who, _ in fleet.suffered] == ["b", "c", "d"]
    assert read_events(tmp_path / "log")[0].failed == "a is not there"


def test_run_without_chaos_has_no_events(tmp_path: Path) -> None:
    """Most have none."""
    assert read_events(tmp_path / "chaos.jsonl") == []
