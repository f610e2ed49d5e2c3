"""Mosquitto as a torture wants it: on one port for good, with small queues, and without a memory once it is killed.

Not here: when it is killed (`torture_run.py`).
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

from broker.server.mosquitto import running_mosquitto
from broker.server.port_owner import chosen_port
from broker.server.process import RunningBroker
from shared.errors import ConfigError, InvalidState

__all__ = ["KillableBroker", "free_port", "killable_broker"]

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below those that the system hands out to whoever connects: ours must still be free after a kill."""
CONFIGURATION = """\
listener 1883
allow_anonymous true
persistence false
max_queued_messages 60
max_inflight_messages 20
set_tcp_nodelay true
log_type error
"""
"""Whatever it knew is gone after a kill, and beyond 60 messages it drops what it has acknowledged."""


class KillableBroker:
    """A broker that comes back on the same port. Made by `killable_broker`."""

    def __init__(self, configuration: Path, port: int) -> None:
        self._configuration, self.port = configuration, port
        self._stack = AsyncExitStack()
        self._running: RunningBroker | None = None

    @property
    def url(self) -> str:
        """For clients, in every life."""
        return f"mqtt://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start a life and wait until it answers."""
        mosquitto = running_mosquitto(host=HOST, port=self.port, configuration=self._configuration)
        self._running = await self._stack.enter_async_context(mosquitto)

    async def ensure(self) -> None:
        """Start a life, unless one is being lived: whoever killed the last may have been cancelled since."""
        if self._running is None:
            await self.start()

    async def kill(self) -> None:
        """End a life by SIGKILL."""
        if self._running is None:
            raise InvalidState("the broker is not running")
        running, self._running = self._running, None
        os.kill(running.pid, signal.SIGKILL)
        await running.wait()  # asyncio is to hear of it before anybody signals it again
        await self._stack.aclose()


@asynccontextmanager
async def killable_broker(folder: Path, rng: Random) -> AsyncIterator[KillableBroker]:
    """Run a broker until the context is left.

    Args:
        folder: for its configuration.
        rng: chooses the port.

    Raises:
        ConfigError: there is no Mosquitto, or it does not come up.
    """
    configuration = folder / "mosquitto.conf"
    configuration.write_text(CONFIGURATION)
    broker = KillableBroker(configuration, free_port(rng))
    await broker.start()
    try:
        yield broker
    finally:
        await broker._stack.aclose()


def free_port(rng: Random) -> int:
    """Return a port that is still free after whoever listened on it was killed.

    Raises:
        ConfigError: none is.
    """
    for _ in range(100):
        try:
            return chosen_port(HOST, rng.choice(PORTS))
        except ConfigError:
            continue
    raise ConfigError(f"no port of {HOST} from {PORTS.start} to {PORTS.stop - 1} is free")
