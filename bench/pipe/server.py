"""The server's end of the bare pipe: `python -m bench.pipe.server PORT DEVICES ROUNDS`.

A round: every chunk of the model once to all, and back come as many bytes from each. They are counted, not kept.
"""

import asyncio
import sys

from bench.pipe.link import DOWN, READY, STOP, UP, connected, pieces, send
from bench.round_log import announce_deviation, announce_round


async def serve(port: int, n_devices: int, n_rounds: int) -> None:
    """Run all rounds, then let the clients go."""
    model = pieces()
    wanted = n_devices * sum(map(len, model))
    async with connected(port) as client:
        await client.subscribe([(f"{READY}/+", 1), (UP, 1)])
        messages = client.messages
        for _ in range(n_devices):
            await anext(messages)
        for _ in range(n_rounds):
            received = 0
            async with asyncio.TaskGroup() as group:
                group.create_task(send(client, DOWN, model))
                while received < wanted:
                    received += len((await anext(messages)).payload)
            announce_round()
        announce_deviation(received - wanted)
        await client.publish(STOP, qos=1)


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
