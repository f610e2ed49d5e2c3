"""A broker as a process of its own: started, watched, asked whether it answers, and ended.

It gets a session of its own, so that Ctrl-C in a terminal reaches us alone, and we end it when nobody needs it any
more. What it logs goes to our log, at debug; its last lines stand in the error if it does not come up.
"""

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import structlog

from broker.config import BrokerSettings
from broker.mqtt import MqttTransport
from shared.errors import ConfigError, CredentialsRefused, TransportError

__all__ = ["BrokerKind", "RunningBroker", "broker_url", "supervised"]

START_TIMEOUT_S = 15.0
"""A broker that does not answer by then never will; the embedded one takes a second on a slow machine."""
STOP_TIMEOUT_S = 5.0
"""After SIGTERM; then SIGKILL."""
_PAUSE_S = 0.02
_LAST_LINES = 8

BrokerKind: TypeAlias = Literal["mosquitto", "embedded"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBroker:
    """A broker that answers.

    Args:
        kind: which one.
        url: for clients on this machine.
        host: the address it listens on.
        port: the TCP port.
        process: its process.
    """

    kind: BrokerKind
    url: str
    host: str
    port: int
    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def wait(self) -> int:
        """Return its exit code when it ends by itself, which it should not."""
        return await self.process.wait()


def broker_url(host: str, port: int) -> str:
    """Return how a client on this machine reaches a broker that listens on `host`."""
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"mqtt://[{host}]:{port}" if ":" in host else f"mqtt://{host}:{port}"


@asynccontextmanager
async def supervised(
    kind: BrokerKind, command: Sequence[str], folder: Path, host: str, port: int
) -> AsyncIterator[RunningBroker]:
    """Start a broker, wait until it answers, and end it on leaving.

    Args:
        kind: which one.
        command: program and arguments; it listens on `host` and `port`, and ends at SIGTERM.
        folder: where it runs.
        host: address it listens on.
        port: TCP port it listens on.

    Raises:
        ConfigError: it does not start, or does not answer.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            # The embedded broker ends when this closes, which it does even when we are killed.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"{command[0]} cannot be started: {error.strerror}") from error
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    reading = asyncio.create_task(_pass_on(kind, process, last_lines), name=f"log of {kind}")
    running = RunningBroker(kind=kind, url=broker_url(host, port), host=host, port=port, process=process)
    try:
        if not await _answers(running):
            await _end(process)
            await reading
            raise ConfigError(f"{kind} did not come up on {host}:{port}", hint="\n  ".join(last_lines))
        _log.info("broker_started", kind=kind, url=running.url, pid=running.pid)
        yield running
    finally:
        await _end(process)
        await reading


async def _answers(running: RunningBroker) -> bool:
    """Connect until it answers; False when it has ended, or time is up."""
    transport = MqttTransport(BrokerSettings(url=running.url, protocol=3), f"readiness-{running.pid}")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT_S):
            while running.process.returncode is None:
                try:
                    async with transport.connect():
                        return running.process.returncode is None
                except CredentialsRefused:
                    return True
                except TransportError:
                    await asyncio.sleep(_PAUSE_S)
    return False


async def _pass_on(kind: str, process: asyncio.subprocess.Process, last_lines: deque[str]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        text = line.decode(errors="replace").rstrip()
        last_lines.append(text)
        _log.debug("broker_says", kind=kind, line=text)


async def _end(process: asyncio.subprocess.Process) -> None:
    for number, timeout_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await process.wait()
                break
    if process.stdin is not None:
        process.stdin.close()
