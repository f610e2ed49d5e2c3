import asyncio
import os
from pathlib import Path

import pytest

from shared.errors import ConfigError, FederationError
from simulator.containers.control import Order, listening, tell

CUT = Order(act="cut", lasts_s=5)


async def test_order_is_obeyed_before_whoever_gave_it_goes_on(tmp_path: Path) -> None:
    """`tell` returns once the order has begun."""
    obeyed: list[Order] = []

    async def obey(order: Order) -> None:
        obeyed.append(order)

    async with listening(tmp_path, "porch-1", obey):
        await tell(tmp_path, "porch-1", CUT)
        assert obeyed == [CUT]
        assert (tmp_path / "porch-1.sock").stat().st_mode & 0o077 == 0
    assert not os.listdir(tmp_path)


async def test_part_that_refuses_says_why(tmp_path: Path) -> None:
    """A refusal reaches whoever gave the order, and the part goes on to listen."""

    async def obey(order: Order) -> None:
        raise FederationError("it has no link to cut")

    async with listening(tmp_path, "broker", obey):
        for _ in range(2):
            with pytest.raises(FederationError, match="broker does not suffer cut: it has no link to cut"):
                await tell(tmp_path, "broker", CUT)


async def test_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    """No socket, and a socket that a killed part has left behind."""
    with pytest.raises(FederationError, match="pocket-2 cannot be told to suffer cut"):
        await tell(tmp_path, "pocket-2", CUT)
    (tmp_path / "pocket-2.sock").touch()
    with pytest.raises(FederationError, match="pocket-2 cannot be told"):
        await tell(tmp_path, "pocket-2", CUT)


async def test_socket_of_a_killed_part_is_replaced(tmp_path: Path) -> None:
    """Its next life listens at the same place."""
    (tmp_path / "broker.sock").touch()

    async def obey(order: Order) -> None:
        pass

    async with listening(tmp_path, "broker", obey):
        await tell(tmp_path, "broker", CUT)


@pytest.mark.parametrize("line", [b"\n", b"nonsense\n", b'{"act": "burn", "lasts_s": 1}\n', b'{"act": "cut"}\n'])
async def test_line_that_is_no_order_is_refused(tmp_path: Path, line: bytes) -> None:
    """Nothing is obeyed that is not exactly an order."""

    async def obey(order: Order) -> None:
        raise AssertionError("obeyed")

    async with listening(tmp_path, "broker", obey):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "broker.sock")
        writer.write(line)
        assert b"no order" in await reader.readline()
        writer.close()


async def test_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    """Linux takes 107 bytes; the error says what to do."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()

    async def obey(order: Order) -> None:
        pass

    with pytest.raises(ConfigError, match="107 bytes"):
        async with listening(deep, "broker", obey):
            pass
