"""Flower as a contender: its server in one process, its clients as threads of others. Nothing is durable there.

`start_server` is the server that answers at once; Flower's newer deployment polls every three seconds.
"""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from bench.children import environment, until_all_left, while_all_run
from bench.round_log import deviation_in, follow_rounds
from bench.turn import ROUND_LIMIT_S, ContenderName, Meter, Say, Setting, Turn
from shared.errors import FederationError
from simulator.processes import Child, child_process

__all__ = ["Flower"]

START_S: Final = 60.0
"""Its server answers by then."""
LOOK_EVERY_S: Final = 0.05
ROUNDING: Final = 0.25
"""FedAvg multiplies in float32: the mean of a hundred equals is off by a thousandth. A missed round is off by 1."""


class Flower:
    """Flower's gRPC server.

    Args:
        python: the interpreter of its environment.
    """

    name: ContenderName = "flower"

    def __init__(self, python: Path) -> None:
        self._python = python

    async def turn(self, setting: Setting, say: Say) -> Turn:
        """See `Contender`."""
        variables = {**environment(setting), "FLWR_TELEMETRY_ENABLED": "0"}
        n_devices, n_rounds = setting.case.n_devices, setting.n_rounds_in_all
        port = _free_port()
        address = f"127.0.0.1:{port}"
        async with AsyncExitStack() as stack:

            async def start(name: str, module: str, *arguments: object) -> Child:
                words, log = [*map(str, arguments)], setting.folder / f"{name}.log"
                process = child_process(name, module, words, log=log, environment=variables, python=self._python)
                return await stack.enter_async_context(process)

            server = await start("flower-server", "bench.flower.server", address, n_devices, n_rounds)
            await while_all_run([server], _until_it_answers(port))
            children = [server]
            for number, share in enumerate(setting.shares()):
                children.append(await start(f"flower-clients-{number}", "bench.flower.clients", address, len(share)))
            clients = [child.pid for child in children[1:]]
            meter = Meter(setting, server=server.pid, broker=None, clients=clients, say=say)
            rounds = follow_rounds(server.log, setting.n_rounds + 1, meter.round_ended, limit_s=ROUND_LIMIT_S)
            await while_all_run(children, rounds)
            await until_all_left(children)
        difference = deviation_in(server.log)
        if difference is None or difference > ROUNDING:
            raise FederationError(f"Flower's final model is wrong by {difference}; the logs are in {setting.folder}")
        return meter.result()


async def _until_it_answers(port: int) -> None:
    """Wait until somebody listens, so that no client begins with a back-off of a second."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                writer.close()
                return


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
