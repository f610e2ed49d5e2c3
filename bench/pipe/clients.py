"""The devices' end of the bare pipe, several to a process: `python -m bench.pipe.clients PORT COUNT`."""

import asyncio
import os
import sys

from bench.pipe.link import DOWN, READY, STOP, UP, connected, pieces, send


async def take_part(port: int, number: int) -> None:
    """Whenever a whole model has come, send as many bytes back."""
    update, received = pieces(), 0
    wanted = sum(map(len, update))
    async with connected(port) as client:
        await client.subscribe([(DOWN, 1), (STOP, 1)])
        await client.publish(f"{READY}/{os.getpid()}-{number}", b"1", qos=1, retain=True)
        async for message in client.messages:
            if message.topic.value == STOP:
                return
            received += len(message.payload)
            if received == wanted:
                received = 0
                await send(client, UP, update)


async def main(port: int, count: int) -> None:
    """Be so many devices."""
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(take_part(port, number))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
