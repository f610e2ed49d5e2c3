"""Child processes of a rehearsal: started on a leash, logged to files, and never left behind.

Each child leads a process group of its own, so that Ctrl-C on the terminal reaches the rehearsal alone, which then
ends its children in its own order. A child that ends by itself with an error is reported with the tail of its log.

Not here: what the children do, and which of them may end.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from shared.errors import AlreadyServed, ConfigError, CredentialsRefused, FederationError
from simulator.leash import GRACE_S

__all__ = ["Child", "child_process", "stop"]

TAIL_LINES = 15
"""Of a log, shown when its process failed."""
TAIL_BYTES = 16_384


class Child:
    """A running child. Made by `child_process`, which also ends it."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Of the child, and of its process group."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child and to whatever it started; nothing once it has ended, for ids are reused."""
        if not self.is_running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it at once, with whatever it started."""
        self.send(signal.SIGKILL)

    def end(self) -> None:
        """Let it end in good order."""
        self.send(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait for its end and return the exit code; minus the signal's number when one ended it."""
        return await self._process.wait()

    def failure(self, code: int) -> FederationError:
        """Return what to raise about an end with this code: of the kind that the child's own error was."""
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = "".join(f"\n  {line}" for line in _tail(self.log))
        kinds = {kind.exit_code: kind for kind in (ConfigError, CredentialsRefused, AlreadyServed)}
        return kinds.get(code, FederationError)(f"{self.name} {how}; the end of {self.log}:{lines}")


@asynccontextmanager
async def child_process(
    name: str,
    module: str,
    arguments: Sequence[str],
    *,
    log: Path | None,
    environment: Mapping[str, str],
    python: Path = Path(sys.executable),
) -> AsyncIterator[Child]:
    """Run `python -m module` on a leash; leaving the context ends it.

    Args:
        name: what to call it.
        module: that is run.
        arguments: of its command line.
        log: where its standard output and error go; None: where ours go.
        environment: its variables.
        python: the interpreter; it needs nothing but the standard library for the leash itself.
    """
    command = [str(python), "-m", "simulator.leash", module, *arguments]
    with log.open("wb") if log is not None else contextlib.nullcontext() as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT if output else None,
            env=dict(environment),
            start_new_session=True,
        )
    child = Child(name, log or Path(os.devnull), process)
    try:
        yield child
    finally:
        await stop(child)


async def stop(*children: Child, grace_s: float = GRACE_S) -> None:
    """End children: SIGTERM to all, and SIGKILL after `grace_s` seconds to those who did not listen."""
    for child in children:
        if child.is_running:
            child.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_s):
            for child in children:
                await child.ended()
    except TimeoutError:
        pass
    finally:
        for child in children:
            if child.is_running:  # never by the id of what has ended: it may be another's by now
                child.send(signal.SIGKILL)
    for child in children:
        await child.ended()


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
