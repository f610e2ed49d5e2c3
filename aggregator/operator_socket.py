"""How an operator's command reaches a running aggregator on the same machine: pause, resume, stop.

A Unix socket that only this user can open; its path stands in the lock file of the run's folder. The broker is not the
way, for it has no operator that every fleet's access rules would know of.
"""

import asyncio
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aggregator.events import Event, PauseAsked, ResumeAsked, StopAsked
from aggregator.run_folder import RunFolder, read_lock
from shared.errors import ConfigError

__all__ = ["ask", "listening"]

_EVENTS: dict[str, Event] = {
    "pause": PauseAsked(),
    "resume": ResumeAsked(),
    "resume-void": ResumeAsked(void=True),
    "stop": StopAsked(),
}
ANSWER_S = 30.0
_PREFIX = "fedmq-operator-"


@asynccontextmanager
async def listening(folder: RunFolder, handle: Callable[[Event], dict[str, Any]]) -> AsyncIterator[None]:
    """Answer operators while the context is open.

    Args:
        folder: whose lock file says where.
        handle: takes the event, returns what to tell the operator.
    """
    left_behind = Path(folder.held_before.get("socket", "")).parent  # by an aggregator that was killed
    if left_behind.name.startswith(_PREFIX):
        shutil.rmtree(left_behind, ignore_errors=True)
    # a folder of its own, for a socket's path may have 107 bytes and a run's folder may be deeper
    place = Path(tempfile.mkdtemp(prefix=_PREFIX))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                word = (await reader.readline()).decode(errors="replace").strip()
        except (TimeoutError, ValueError, OSError):  # nothing came, or a line without an end
            writer.close()
            return
        event = _EVENTS.get(word)
        reply = {"error": f"no command {word!r}"} if event is None else handle(event)
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, place / "operator")
    folder.describe(socket=str(place / "operator"))
    try:
        async with server:
            yield
    finally:
        shutil.rmtree(place, ignore_errors=True)


def ask(run_folder: Path, word: str) -> dict[str, Any]:
    """Send a command to the aggregator that holds a folder; returns its answer.

    Args:
        run_folder: of the run.
        word: "pause", "resume", "resume-void" or "stop".

    Raises:
        ConfigError: no aggregator holds the folder, or it does not answer.
    """
    path = read_lock(run_folder).get("socket")
    hint = "is it running, on this machine? python -m aggregator run … starts it"
    if not path:
        raise ConfigError("no aggregator holds this folder", where=str(run_folder), hint=hint)
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(ANSWER_S)
            link.connect(path)
            link.sendall(word.encode() + b"\n")
            reply = json.loads(link.makefile().readline() or "{}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the aggregator does not answer: {error}", where=str(run_folder), hint=hint) from error
    return reply if isinstance(reply, dict) else {}
