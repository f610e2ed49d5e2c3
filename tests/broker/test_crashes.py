"""When the simulated broker crashes by itself, in virtual time."""

import asyncio
from random import Random

import pytest

from broker.crashes import Crashes
from broker.faults import Faults
from tests.broker.listening import now

pytestmark = pytest.mark.virtual_time


class Broker:
    """Notes when it dies and comes back; whoever serves it connects again at once."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.times: list[tuple[str, float]] = []
        self.crashes = Crashes(Random(1), self.die, self.come_back)

    def die(self) -> None:
        self.crashes.disarm()
        self.times.append(("down", now()))

    def come_back(self) -> None:
        self.crashes.disarm()
        self.times.append(("up", now()))
        self.crashes.arm(self.faults)


async def test_crashes_come_at_random_and_end() -> None:
    """About one in a hundred seconds of being up, each for about ten."""
    broker = Broker(Faults(crash_every_s=100.0, crash_lasts_s=10.0))
    broker.crashes.arm(broker.faults)
    await asyncio.sleep(22_000.0)
    broker.crashes.disarm()
    kinds = [kind for kind, _ in broker.times]
    assert kinds == ["down", "up"] * (len(kinds) // 2) + ["down"] * (len(kinds) % 2)
    assert 150 < kinds.count("up") < 250
    down_s = sum(up - down for (_, down), (_, up) in zip(broker.times[::2], broker.times[1::2], strict=False))
    assert down_s / kinds.count("up") == pytest.approx(10.0, rel=0.1)


async def test_no_crash_is_drawn_unless_wanted_nor_happens_once_forgotten() -> None:
    """A broker without this switch sets no timer, and one that is told off stays up."""
    broker = Broker(Faults())
    broker.crashes.arm(broker.faults)
    broker.crashes.arm(Faults(crash_every_s=100.0))
    broker.crashes.disarm()
    await asyncio.sleep(10_000.0)
    assert broker.times == []


async def test_arming_twice_moves_no_crash() -> None:
    """Each client that connects arms it: the first draw stands."""
    once, often = Broker(Faults(crash_every_s=100.0)), Broker(Faults(crash_every_s=100.0))
    once.crashes.arm(once.faults)
    for _ in range(5):
        often.crashes.arm(often.faults)
    await asyncio.sleep(1_000.0)
    assert once.times == often.times != []
