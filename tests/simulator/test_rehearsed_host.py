import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, cast

import pytest

from broker.server.faulty_link import FaultyLink
from shared.errors import FederationError
from simulator.processes import Child
from simulator.rehearsed_host import Cuts, RehearsedHost
from simulator.scenario import PlannedDevice, Scenario
from simulator.scenarios.traces import Trace

pytestmark = pytest.mark.virtual_time


class FakeLink:
    """Takes down when it is up and down."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []

    async def down(self) -> None:
        self.said.append((asyncio.get_running_loop().time(), "down"))

    def up(self) -> None:
        self.said.append((asyncio.get_running_loop().time(), "up"))


class FakeChild:
    """A process that lives until it is ended."""

    def __init__(self, after_s: float | None = None) -> None:
        self._over = asyncio.Event()
        self._after_s, self._code = after_s, 3

    async def ended(self) -> int:
        try:
            async with asyncio.timeout(self._after_s):
                await self._over.wait()
        except TimeoutError:
            return 3
        return self._code

    def kill(self) -> None:
        self._code = -signal.SIGKILL
        self._over.set()

    def end(self) -> None:
        self._code = 0
        self._over.set()

    def failure(self, code: int) -> FederationError:
        return FederationError(f"ended with {code}")


def planned(**group: Any) -> PlannedDevice:
    """The only device of a scenario."""
    return Scenario.model_validate({"run": {"task": "m:t"}, "devices": {"yard": group}}).plan()[0]


def host(device: PlannedDevice, link: FakeLink, child: Callable[[], FakeChild] = FakeChild, **more: Any) -> Any:
    """A host of this device, and when its lives began and ended."""
    lives: list[list[float]] = []

    @asynccontextmanager
    async def start(number: int) -> AsyncIterator[Child]:
        clock = asyncio.get_running_loop().time
        lives.append([clock()])
        try:
            yield cast(Child, child())
        finally:
            lives[-1].append(clock())

    cuts = Cuts({device.id: cast(FaultyLink, link)})
    settings: dict[str, Any] = {"seed": 1, "start_hour": 0.0, "traces": {}, "cuts": cuts, **more}
    return RehearsedHost([device], start, **settings), lives


async def until(host: RehearsedHost, seconds: float) -> None:
    """Let it live for so long."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await host.run()


async def test_device_that_nothing_befalls_lives_once() -> None:
    """From the begin to the end, its link untouched."""
    link = FakeLink()
    rehearsed, lives = host(planned(), link)
    await until(rehearsed, 100)
    assert lives == [[0.0, 100.0]]
    assert link.said == []


async def test_device_that_crashes_is_back_after_its_time() -> None:
    """Killed at exponential times, down for a minute each time."""
    rehearsed, lives = host(planned(faults={"crash_every_s": 500, "down_s": 60}), FakeLink())
    await until(rehearsed, 5000)
    assert len(lives) > 3
    assert {round(after[0] - before[1], 6) for before, after in pairwise(lives)} == {60.0}


async def test_device_with_hours_is_on_within_them() -> None:
    """From two to four in the morning, and again on the next day."""
    rehearsed, lives = host(planned(availability={"hours": [[2, 4]]}), FakeLink())
    await until(rehearsed, 27 * 3600)
    assert [[hour / 3600 for hour in life] for life in lives] == [[2, 4], [26, 27]]


async def test_device_of_a_trace_keeps_running_out_of_reach() -> None:
    """Its link is down while the trace says so; its process does not notice."""
    link, device = FakeLink(), planned(availability={"trace": "t.csv"})
    traces = {device.availability.trace: (Trace("a", ((10.0, 20.0),), 30.0),)}
    rehearsed, lives = host(device, link, traces=traces)
    await until(rehearsed, 45)
    assert link.said == [(0, "down"), (10, "up"), (20, "down"), (40, "up")]
    assert len(lives) == 1


async def test_link_stays_down_while_anything_wants_it_down() -> None:
    """A partition that ends within an absence brings nobody back."""
    link = FakeLink()
    cuts = Cuts({"a": cast(FaultyLink, link)})
    await cuts.cut("a", "trace")
    await cuts.cut("a", "partition")
    cuts.mend("a", "partition")
    assert [what for _, what in link.said] == ["down", "down"]
    cuts.mend("a", "trace")
    assert link.said[-1] == (0, "up")


async def test_process_that_ends_by_itself_is_a_failure() -> None:
    """Nobody asked it to: the rehearsal is told."""
    rehearsed, _ = host(planned(), FakeLink(), lambda: FakeChild(5.0))
    with pytest.raises(ExceptionGroup) as caught:
        await rehearsed.run()
    assert "ended with 3" in str(caught.value.exceptions[0])
