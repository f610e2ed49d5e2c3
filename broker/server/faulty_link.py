"""A TCP proxy between a client and the broker that is as bad as its `LinkProfile` says.

One `FaultyLink` is one client's link: it listens on a port of its own on 127.0.0.1, and its failures go on whether or
not somebody is connected. They come from the profile's seeded schedule, and by hand through `down`, `up`, `stall`,
`resume` and `reset`; whichever spoke last holds.

What a client may send ahead is bounded, as a TCP window bounds it: beyond that its own socket fills up. While the link
is down a new connection is accepted and reset at once, since closing the port would give it away.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from broker.link import PERFECT, Flow, LinkEventKind, LinkProfile, link_events
from broker.server.process import broker_url
from shared.errors import InvalidState

__all__ = ["FaultyLink", "faulty_link"]

PIECE_BYTES = 16_384
"""What is carried at a time; less on a thin link, so that it does not move in jumps."""
PIECE_S = 0.05
"""A piece takes a thin link about this long, in seconds."""
PIECES_ON_THE_WAY = 64
"""Pieces that have left and not arrived, one way; 1 MiB at most."""
BUFFER_BYTES = 65_536
"""Of each socket and stream that the proxy reads from or writes to."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class FaultyLink:
    """One client's link. Made by `faulty_link`.

    Args:
        host: of the broker.
        port: of the broker.
        profile: how bad the link is.
        seed: of its jitter and its failures.
    """

    def __init__(self, host: str, port: int, profile: LinkProfile, seed: int | str) -> None:
        self._target = (host, port)
        self._profile = profile
        self._seed = seed
        self._rng = Random(f"{seed}/jitter")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._is_down = False
        self._bytes = {"up": 0, "down": 0}
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1 that the client connects to."""
        if self._server is None or not self._server.sockets:
            raise InvalidState("the link is not open")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The broker, through this link."""
        return broker_url("127.0.0.1", self.port)

    @property
    def is_down(self) -> bool:
        """Whether nothing gets through."""
        return self._is_down

    @property
    def bytes_up(self) -> int:
        """What the client has sent so far, lost or not, over all connections."""
        return self._bytes["up"]

    @property
    def bytes_down(self) -> int:
        """What the broker has sent so far, lost or not, over all connections."""
        return self._bytes["down"]

    async def down(self) -> None:
        """Break what is open and let nothing new through, until `up`."""
        self._is_down = True
        await self.reset()

    def up(self) -> None:
        """Let new connections through again."""
        self._is_down = False

    def stall(self) -> None:
        """Let nothing flow, and tell nobody, until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let everything flow again."""
        self._flowing.set()

    async def reset(self) -> None:
        """Break what is open, what is under way included; both ends read a reset."""
        for writer in self._open:
            _reset(writer)
        await asyncio.sleep(0)  # the loop closes them in its next turn

    async def listen(self) -> None:
        """Begin."""
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)  # what it accepts inherits it
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=BUFFER_BYTES)
        self._start(self._fail(asyncio.get_running_loop().time()))

    async def close(self) -> None:
        """End: nothing listens any more, and what was open is reset."""
        if self._server is not None:
            self._server.close()
        await self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fail(self, since: float) -> None:
        """Let happen what the schedule says."""
        for event in link_events(self._profile, self._seed):
            await _sleep_until(since + event.at_s)
            match event.kind:
                case LinkEventKind.DOWN:
                    await self.down()
                case LinkEventKind.UP:
                    self.up()
                case LinkEventKind.STALL:
                    self.stall()
                case LinkEventKind.RESUME:
                    self.resume()
                case LinkEventKind.RESET:
                    await self.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._carry(reader, writer))

    async def _carry(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        writers = [near]
        self._open.add(near)
        try:
            if self._is_down:
                raise ConnectionResetError
            far_reader, far = await asyncio.open_connection(*self._target, limit=BUFFER_BYTES)
            writers.append(far)
            self._open.add(far)
            if near.is_closing():  # reset meanwhile
                raise ConnectionResetError
            for writer in writers:
                writer.transport.set_write_buffer_limits(BUFFER_BYTES)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._one_way("up", near_reader, far, self._profile.up(self._rng)))
                ways.create_task(self._one_way("down", far_reader, near, self._profile.down(self._rng)))
            for writer in writers:
                writer.close()
        except* OSError:
            pass  # one end is gone: so is the other, below
        finally:
            for writer in writers:
                self._open.discard(writer)
                if not writer.is_closing():
                    _reset(writer)

    async def _one_way(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_ON_THE_WAY)
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._send(way, reader, flow, on_the_way))
            ends.create_task(self._receive(writer, on_the_way))

    async def _send(
        self, way: str, reader: asyncio.StreamReader, flow: Flow, on_the_way: "asyncio.Queue[tuple[float, bytes]]"
    ) -> None:
        loop = asyncio.get_running_loop()
        piece = b"begin"
        while piece:
            await self._flowing.wait()
            try:
                piece = await reader.read(flow.piece_bytes(PIECE_S, PIECE_BYTES))
            except OSError:
                piece = b""  # a reset comes behind what was sent before it
            self._bytes[way] += len(piece)
            await on_the_way.put((flow.arrival(len(piece), loop.time()), piece))
            await _sleep_until(flow.free_at)

    async def _receive(self, writer: asyncio.StreamWriter, on_the_way: "asyncio.Queue[tuple[float, bytes]]") -> None:
        piece = b"begin"
        while piece:
            arrives, piece = await on_the_way.get()
            await _sleep_until(arrives)
            await self._flowing.wait()
            if piece:
                writer.write(piece)
                await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def faulty_link(
    host: str, port: int, profile: LinkProfile = PERFECT, *, seed: int | str = 0
) -> AsyncIterator[FaultyLink]:
    """Put a link between one client and a broker, until the context is left.

    Args:
        host: of the broker.
        port: of the broker.
        profile: how bad the link is.
        seed: of its jitter and its failures, which count from now.
    """
    link = FaultyLink(host, port, profile, seed)
    await link.listen()
    try:
        yield link
    finally:
        await link.close()


async def _sleep_until(at: float) -> None:
    wait_s = at - asyncio.get_running_loop().time()
    if wait_s > 0.0:
        await asyncio.sleep(wait_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # it may be closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
