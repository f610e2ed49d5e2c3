"""The bare pipe as a contender: what aiomqtt and Mosquitto can carry when nothing is checked, kept or decided."""

from contextlib import AsyncExitStack

from bench.children import environment, until_all_left, while_all_run
from bench.round_log import deviation_in, follow_rounds
from bench.turn import ROUND_LIMIT_S, ContenderName, Meter, Say, Setting, Turn
from broker.server.mosquitto import running_mosquitto
from shared.errors import FederationError
from simulator.processes import Child, child_process

__all__ = ["Pipe"]


class Pipe:
    """aiomqtt, Mosquitto, aiomqtt."""

    name: ContenderName = "pipe"

    async def turn(self, setting: Setting, say: Say) -> Turn:
        """See `Contender`."""
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(running_mosquitto())

            async def start(name: str, module: str, *arguments: int) -> Child:
                words, log = [*map(str, (broker.port, *arguments))], setting.folder / f"{name}.log"
                process = child_process(name, module, words, log=log, environment=environment(setting))
                return await stack.enter_async_context(process)

            server = await start("pipe-server", "bench.pipe.server", setting.case.n_devices, setting.n_rounds_in_all)
            children = [server]
            for number, share in enumerate(setting.shares()):
                children.append(await start(f"pipe-clients-{number}", "bench.pipe.clients", len(share)))
            clients = [child.pid for child in children[1:]]
            meter = Meter(setting, server=server.pid, broker=broker.pid, clients=clients, say=say)
            rounds = follow_rounds(server.log, setting.n_rounds + 1, meter.round_ended, limit_s=ROUND_LIMIT_S)
            await while_all_run(children, rounds)
            await until_all_left(children)
        if deviation_in(server.log) != 0:
            raise FederationError(f"the pipe lost bytes or carried too many; the logs are in {setting.folder}")
        return meter.result()
