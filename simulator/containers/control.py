"""How chaos tells a part of the fleet what to suffer: a line of JSON over a Unix socket in a folder that both can see.

A socket in a folder, and not a port: in containers the folder is a volume, so whoever has not mounted it cannot even
knock, whatever network it is in. Nothing here listens on a network.

Not here: what a part does when it is told (`parts.py`), and who is told when (`chaos.py`).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigError, FederationError

__all__ = ["Order", "listening", "tell"]

ANSWER_S = 10.0
"""For a line to come, and for its answer."""
MAX_PATH_BYTES = 107
"""Of a Unix socket on Linux."""
SUFFIX = ".sock"


class Order(BaseModel):
    """What a part is to suffer.

    Args:
        act: "kill": its process is killed (SIGKILL) and started again; "cut": its link is down.
        lasts_s: seconds until it is back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    act: Literal["kill", "cut"]
    lasts_s: float = Field(ge=0, le=86_400, allow_inf_nan=False)


@asynccontextmanager
async def listening(folder: Path, name: str, obey: Callable[[Order], Awaitable[None]]) -> AsyncIterator[None]:
    """Obey orders while the context is open.

    Args:
        folder: where sockets lie; it exists.
        name: of this part; another part of that name, or what a killed one left, is replaced.
        obey: returns when it has begun, not when it is over; a `FederationError` refuses.

    Raises:
        ConfigError: the path is too long for a socket.
    """
    path = folder / f"{name}{SUFFIX}"
    if len(str(path).encode()) > MAX_PATH_BYTES:
        hint = f"a socket's path has {MAX_PATH_BYTES} bytes at most: choose a shorter folder or name of the run"
        raise ConfigError("no socket can lie there", where=str(path), hint=hint)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, ValueError, OSError):  # nothing came, or a line without an end
            async with asyncio.timeout(ANSWER_S):
                writer.write(json.dumps(await _obeyed(await reader.readline(), obey)).encode() + b"\n")
                await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, path)
    path.chmod(0o600)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _obeyed(line: bytes, obey: Callable[[Order], Awaitable[None]]) -> dict[str, str]:
    try:
        order = Order.model_validate_json(line)
    except ValidationError as error:
        return {"error": f"no order: {error.errors()[0]['msg']}"}
    try:
        await obey(order)
    except FederationError as error:
        return {"error": str(error)}
    return {}


async def tell(folder: Path, name: str, order: Order) -> None:
    """Give an order, and return when it has begun.

    Raises:
        FederationError: the part is not there, or refuses.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(folder / f"{name}{SUFFIX}")
            try:
                writer.write(order.model_dump_json().encode() + b"\n")
                answer = json.loads(await reader.readline() or b'{"error": "it ended before it answered"}')
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        raise FederationError(f"{name} cannot be told to suffer {order.act}: {error!r}") from error
    if "error" in answer:
        raise FederationError(f"{name} does not suffer {order.act}: {answer['error']}")
