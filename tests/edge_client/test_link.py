import asyncio
from random import Random

import pytest
import structlog

from broker.reconnect import Reconnect
from broker.simulated import SimulatedBroker
from broker.transport import Connection, Will
from edge_client.link import Link
from shared.errors import CredentialsRefused, TransportError

pytestmark = pytest.mark.virtual_time


class Kept:
    """A link that is kept, and what was heard of it.

    Args:
        broker: at the other end.
    """

    def __init__(self, broker: SimulatedBroker) -> None:
        self.ended = asyncio.Event()
        self.link = Link(broker.transport("pi"), Reconnect(Random(1)), self.ended)
        self.lost: list[TransportError] = []
        self.began: list[float] = []

    async def live(self, connection: Connection) -> None:
        """Listen until the end."""
        self.began.append(asyncio.get_running_loop().time())
        async for _ in connection.messages():
            pass

    async def keep(self) -> None:
        """Keep it, returning to the broker within ten seconds."""
        await self.link.keep(
            self.live, will=lambda: Will("will", b"gone"), on_lost=self.lost.append, window_s=lambda: 10.0
        )


async def test_every_connection_is_a_fresh_one_within_the_window() -> None:
    """After a loss the device is back within the reconnect window, with the next number."""
    broker = SimulatedBroker()
    kept = Kept(broker)
    task = asyncio.create_task(kept.keep())
    for number in range(1, 4):
        await asyncio.sleep(400)
        assert (kept.link.connection, len(kept.began)) == (number, number)
        broker.cut("pi")
        cut_at = asyncio.get_running_loop().time()
        await asyncio.sleep(11)
        assert kept.began[-1] - cut_at <= 10
    assert [str(error) for error in kept.lost] == ["the link was cut"] * 3
    task.cancel()


async def test_failed_attempt_is_one_log_line_with_the_next_ones_time() -> None:
    """An operator sees when the next attempt is due, and what was wrong."""
    broker = SimulatedBroker()
    broker.stop()
    kept = Kept(broker)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(kept.keep())
        await asyncio.sleep(60)
    assert len(logs) == kept.link.connection - 1 or len(logs) == kept.link.connection
    assert {line["event"] for line in logs} == {"broker_unreachable"}
    assert [line["attempt"] for line in logs] == list(range(1, len(logs) + 1))
    assert {"cause", "next_attempt_in_s", "next_attempt_at"} <= logs[0].keys()
    assert kept.lost == []
    task.cancel()


async def test_stay_away_is_obeyed_once() -> None:
    """A cloned id stops for hours; afterwards the usual waits hold again."""
    broker = SimulatedBroker()
    kept = Kept(broker)
    task = asyncio.create_task(kept.keep())
    await asyncio.sleep(1)
    kept.link.stay_away(5000, "another uses its id")
    with structlog.testing.capture_logs() as logs:
        broker.cut("pi")
        await asyncio.sleep(4990)
    (line,) = logs
    assert (line["event"], line["cause"]) == ("staying_away", "another uses its id")
    assert line["next_attempt_in_s"] == 5000
    assert kept.link.connection == 1
    await asyncio.sleep(11)
    assert kept.link.connection == 2
    broker.cut("pi")
    await asyncio.sleep(11)
    assert kept.link.connection == 3
    task.cancel()


async def test_end_while_waiting_ends_at_once() -> None:
    """Nobody waits five minutes for a device that is to stop."""
    broker = SimulatedBroker()
    broker.stop()
    kept = Kept(broker)
    task = asyncio.create_task(kept.keep())
    await asyncio.sleep(1000)
    kept.ended.set()
    await asyncio.wait_for(task, 0.1)


async def test_refused_credentials_are_not_tried_again() -> None:
    """It ends with the error, at once."""
    broker = SimulatedBroker()
    broker.refuse("pi")
    kept = Kept(broker)
    with pytest.raises(CredentialsRefused):
        await kept.keep()
    assert kept.link.connection == 1
