import asyncio
from contextlib import suppress

import pytest

from broker.simulated import SimulatedBroker
from broker.transport import Connection
from edge_client.outgoing import Outgoing, Send


async def delivered(outgoing: Outgoing, connection: Connection, *, turns: int = 20) -> None:
    """Let the mailbox work for a few turns of the loop."""
    task = asyncio.create_task(outgoing.deliver(connection))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_newest_of_a_topic_goes_in_the_place_of_the_first() -> None:
    """A status that waited is replaced; the order of topics stays."""
    outgoing, sent = Outgoing(), list[str]()

    def saying(text: str) -> Send:
        async def send(connection: Connection) -> None:
            sent.append(text)

        return send

    outgoing.put("status", saying("status 1"))
    outgoing.put("check-in", saying("check-in"))
    outgoing.put("status", saying("status 2"))
    async with SimulatedBroker().transport("pi").connect() as connection:
        await delivered(outgoing, connection)
        outgoing.put("status", saying("status 3"))
        await delivered(outgoing, connection)
    assert sent == ["status 2", "check-in", "status 3"]


async def test_what_fails_ends_the_delivery() -> None:
    """A lost link is its caller's affair."""

    async def send(connection: Connection) -> None:
        raise ConnectionError

    outgoing = Outgoing()
    outgoing.put("a", send)
    async with SimulatedBroker().transport("pi").connect() as connection:
        with pytest.raises(ConnectionError):
            await outgoing.deliver(connection)
