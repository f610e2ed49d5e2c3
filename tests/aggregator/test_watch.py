"""The table shows a person what happens; elsewhere there are lines; and it ends when the run does."""

import asyncio
import io
import json
from random import Random

import pytest
from rich.console import Console

from aggregator.watch import watch, watch_fleet
from broker.simulated import SimulatedBroker
from shared.errors import ConfigError, CredentialsRefused
from shared.topics import StatusTopic
from tests.aggregator.fleet_messages import TOPICS, a_device, a_status

pytestmark = pytest.mark.virtual_time


async def watched(broker: SimulatedBroker, *, as_json: bool = False, is_terminal: bool = False) -> str:
    """Watch until the run is finished; return what was shown."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=is_terminal, width=100, height=40, legacy_windows=False)
    async with asyncio.timeout(600):
        view = await watch(broker.transport("watch"), "demo", console, as_json=as_json, rng=Random(1))
    assert view.is_finished
    return shown.getvalue()


async def a_run(broker: SimulatedBroker) -> None:
    """Publish what a short run says."""
    async with broker.transport("everybody").connect() as connection:
        for topic, payload in (
            a_status("waiting"),
            a_device("pi-1"),
            a_status(),
            a_device("pi-1", online=False),
            a_status("finished", 3),
        ):
            await connection.publish(topic, payload, retained=True)
            await asyncio.sleep(1.0)


async def test_watch_prints_a_line_a_change_and_ends_with_the_run() -> None:
    """In a log there is no table and nothing twice."""
    broker = SimulatedBroker()
    shown, _ = await asyncio.gather(watched(broker), a_run(broker))
    assert shown.splitlines() == [
        "run digits at version 2, epoch 9",
        "version 2: accuracy=0.5",
        "round 3 waiting: have=4 need=10",
        "round 3 reporting: 4 of 12 reports, quorum 10, 30 s left",
        "pi-1 is gone",
        "version 3: accuracy=0.6",
        "round 3 finished: outstanding=5 accepted=28",
    ]


async def test_watch_draws_a_table_on_a_terminal() -> None:
    """The last picture stays on the screen."""
    broker = SimulatedBroker()
    shown, _ = await asyncio.gather(watched(broker, is_terminal=True), a_run(broker))
    assert "finished" in shown
    assert "pi-1" in shown


async def test_watch_writes_json_for_programs() -> None:
    """One object a message, and nothing else."""
    broker = SimulatedBroker()
    shown, _ = await asyncio.gather(watched(broker, as_json=True), a_run(broker))
    found = [json.loads(line) for line in shown.splitlines()]
    assert [f["status"].get("phase") for f in found] == ["waiting", "training", "reporting", "training", "finished"]
    assert found[1]["topic"] == TOPICS.build(StatusTopic("pi-1"))


async def test_watch_survives_the_broker() -> None:
    """A lost link is said in a line, and watching goes on."""
    broker = SimulatedBroker()
    broker.stop()

    async def later() -> None:
        await asyncio.sleep(5)
        broker.start()
        await asyncio.sleep(20)
        await a_run(broker)

    shown, _ = await asyncio.gather(watched(broker), later())
    assert "no broker: nobody listens; trying again in" in shown
    assert "round 3 finished" in shown


async def test_watch_that_is_refused_ends_with_that_error() -> None:
    """Wrong credentials are not tried for ever, and the error is not wrapped."""
    broker = SimulatedBroker()
    broker.refuse("watch")
    with pytest.raises(CredentialsRefused):
        await watched(broker)


async def test_watch_until_something_else_ends_then() -> None:
    """Whoever embeds it decides when it has seen enough."""
    broker = SimulatedBroker()
    console = Console(file=io.StringIO())
    watching = watch(broker.transport("watch"), "demo", console, until=lambda view: "pi-1" in view.devices)
    view, _ = await asyncio.gather(watching, a_run(broker))
    assert not view.is_finished


async def test_watch_fleet_with_a_wrong_name_or_address_is_refused_before_it_connects() -> None:
    """The operator reads which option is wrong."""
    with pytest.raises(ConfigError, match="fleet"):
        await watch_fleet(None, None, "No Such/Name")
    with pytest.raises(ConfigError, match="broker"):
        await watch_fleet(None, "http://example.org", None)
