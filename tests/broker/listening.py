"""What tests of the simulated broker listen with; all in virtual time."""

import asyncio

from broker.simulated import SimulatedBroker
from broker.transport import Connection, Message

__all__ = ["arrivals", "now", "numbers", "payloads", "publish_all"]


def now() -> float:
    """The loop's time in seconds."""
    return asyncio.get_running_loop().time()


async def arrivals(connection: Connection, until_s: float = 10.0) -> list[Message]:
    """What arrives until the given time has passed."""
    got: list[Message] = []
    messages = connection.messages()
    try:
        async with asyncio.timeout(until_s):
            while True:
                got.append(await anext(messages))
    except TimeoutError:
        return got


async def payloads(connection: Connection, until_s: float = 10.0) -> list[bytes]:
    """What arrives until the given time has passed, without its topics."""
    return [message.payload for message in await arrivals(connection, until_s)]


async def publish_all(broker: SimulatedBroker, n: int, *, qos: int, until_s: float = 10.0) -> list[bytes]:
    """Publish 0 … n-1 from one client to another, and return what arrives."""
    async with broker.transport("b").connect() as receiver, broker.transport("a").connect() as sender:
        await receiver.subscribe(["x"])
        for i in range(n):
            await sender.publish("x", b"%d" % i, qos=qos)
        return await payloads(receiver, until_s)


def numbers(n: int) -> list[bytes]:
    """0 … n-1 as payloads."""
    return [b"%d" % i for i in range(n)]
