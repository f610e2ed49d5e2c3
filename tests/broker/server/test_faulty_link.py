"""The faulty TCP link. Its waits are real, and short."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.link import Failures, LinkProfile
from broker.server.faulty_link import FaultyLink, faulty_link

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def an_echo() -> AsyncIterator[int]:
    """A server that sends back what it gets; yields its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def through(link: FaultyLink) -> AsyncIterator[Ends]:
    """A connection through a link."""
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def echoed(ends: Ends, data: bytes) -> float:
    """Send, check what comes back, and return how long it took in seconds."""
    since = asyncio.get_running_loop().time()
    ends[1].write(data)
    async with asyncio.timeout(10.0):
        assert await ends[0].readexactly(len(data)) == data
    return asyncio.get_running_loop().time() - since


async def is_broken(ends: Ends) -> bool:
    """Whether the connection ends at once."""
    async with asyncio.timeout(2.0):
        try:
            return await ends[0].read(1) == b""
        except ConnectionError:
            return True


async def test_perfect_link_carries_everything_unchanged() -> None:
    """A megabyte comes back as it was, and so does the end of the stream."""
    async with an_echo() as port, faulty_link("127.0.0.1", port) as link, through(link) as ends:
        await echoed(ends, bytes(range(256)) * 4096)
        ends[1].write_eof()
        assert await ends[0].read(-1) == b""


async def test_latency_is_each_way() -> None:
    """There and back takes twice the latency, and jitter at most doubles it here."""
    profile = LinkProfile(latency_s=0.05, jitter_s=0.05)
    async with an_echo() as port, faulty_link("127.0.0.1", port, profile) as link, through(link) as ends:
        assert 0.10 <= await echoed(ends, b"x") < 0.30


async def test_latency_does_not_limit_what_is_under_way() -> None:
    """Much may be on the way at once: 40 pieces take about one round trip, not forty."""
    profile = LinkProfile(latency_s=0.05)
    async with an_echo() as port, faulty_link("127.0.0.1", port, profile) as link, through(link) as ends:
        assert await echoed(ends, bytes(40 * 16_384)) < 1.0


@pytest.mark.parametrize("way", ["up_bytes_per_s", "down_bytes_per_s"])
async def test_bandwidth_is_kept(way: str) -> None:
    """20,000 bytes at 100,000 a second take a fifth of a second, whichever way is the thin one."""
    profile = LinkProfile.model_validate({way: 100_000.0})
    async with an_echo() as port, faulty_link("127.0.0.1", port, profile) as link, through(link) as ends:
        assert 0.18 <= await echoed(ends, bytes(20_000)) < 0.6


async def test_thin_link_pushes_back() -> None:
    """What a sender can send ahead is bounded: the proxy does not take in what it cannot pass on."""
    profile = LinkProfile(up_bytes_per_s=1_000.0)
    async with an_echo() as port, faulty_link("127.0.0.1", port, profile) as link, through(link) as (_, writer):
        n_sent = 0

        async def send_for_ever() -> None:
            nonlocal n_sent
            while True:
                writer.write(bytes(65_536))
                n_sent += 65_536
                await writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send_for_ever(), 0.3)
        assert n_sent < 16 << 20  # the kernel's buffers; without pushing back it would be hundreds of MB
        writer.transport.abort()


async def test_stall_holds_and_loses_nothing() -> None:
    """While stalled nothing comes through and nothing breaks; afterwards everything comes."""
    async with an_echo() as port, faulty_link("127.0.0.1", port) as link, through(link) as ends:
        await echoed(ends, b"before")
        link.stall()
        waiting = asyncio.create_task(echoed(ends, b"during"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        link.resume()
        assert await waiting >= 0.05


async def test_reset_breaks_and_lets_connect_at_once() -> None:
    """What is open ends, and the next connection is as good as the first."""
    async with an_echo() as port, faulty_link("127.0.0.1", port) as link:
        async with through(link) as ends:
            await echoed(ends, b"before")
            await link.reset()
            assert await is_broken(ends)
        async with through(link) as ends:
            await echoed(ends, b"after")


async def test_down_breaks_and_refuses_until_up() -> None:
    """While it is down every connection ends at once; the port stays its own."""
    async with an_echo() as port, faulty_link("127.0.0.1", port) as link:
        async with through(link) as ends:
            await echoed(ends, b"before")
            await link.down()
            assert link.is_down
            assert await is_broken(ends)
        async with through(link) as ends:
            assert await is_broken(ends)
        link.up()
        async with through(link) as ends:
            await echoed(ends, b"after")


async def test_links_fail_by_their_schedule() -> None:
    """Outages, stalls and resets of the profile happen by themselves, and the link is good in between."""
    profile = LinkProfile(
        outages=Failures(every_s=0.05, lasts_s=0.02), stalls=Failures(every_s=0.05, lasts_s=0.01), resets_every_s=0.05
    )
    n_broken, n_echoed = 0, 0
    async with an_echo() as port, faulty_link("127.0.0.1", port, profile, seed=1) as link, asyncio.timeout(10.0):
        while n_broken < 5 or n_echoed < 5:
            async with through(link) as ends:
                try:
                    while True:
                        await echoed(ends, b"x")
                        n_echoed += 1
                        await asyncio.sleep(0.005)
                except (OSError, asyncio.IncompleteReadError):
                    n_broken += 1


async def test_links_do_not_touch_each_other() -> None:
    """One process holds many links; what happens to one happens to no other."""
    async with (
        an_echo() as port,
        faulty_link("127.0.0.1", port) as one,
        faulty_link("127.0.0.1", port) as other,
        through(one) as through_one,
        through(other) as through_other,
    ):
        await one.down()
        assert await is_broken(through_one)
        await echoed(through_other, b"x")


async def test_nobody_behind_the_link_breaks_the_connection() -> None:
    """A broker that is not there is felt through the link, too."""
    async with an_echo() as port:
        pass
    async with faulty_link("127.0.0.1", port) as link, through(link) as ends:
        assert await is_broken(ends)
