"""Children of the nursery are processes of their own: they log, they end, they are killed, and none is left behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.errors import FederationError
from simulator.torture_nursery import Nursery, nursery
from simulator.torture_plan import device_settings

DEVICES = "simulator.torture_devices"


def _a_plan(folder: Path) -> dict[str, Any]:
    """A process with one device, whose broker does not exist."""
    url = "mqtt://127.0.0.1:9"
    settings = device_settings(url=url, folder=folder / "devices")
    return {"settings": settings, "urls": {"d1": url}, "n_params": 4, "notes": str(folder / "notes")}


async def _until(path: Path, words: bytes) -> None:
    async with asyncio.timeout(15):
        while not path.exists() or words not in path.read_bytes():  # noqa: ASYNC110, ASYNC240 - another process writes
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _a_nursery() -> AsyncIterator[Nursery]:
    """A nursery that somebody listens to; its end is no error here, for the test is over then."""
    async with nursery() as ward:
        listening = asyncio.create_task(ward.listen())
        yield ward
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_child_works_until_it_is_killed(tmp_path: Path) -> None:
    """It runs the module it was started with, and its end is told with the signal."""
    async with _a_nursery() as ward:
        child = await ward.start("devices", DEVICES, _a_plan(tmp_path), tmp_path / "log")
        await _until(tmp_path / "notes", b"born")
        assert child.pid not in (os.getpid(), ward.pid)
        assert await ward.kill(child) == -signal.SIGKILL
        assert not child.is_running
        assert await ward.kill(child) == -signal.SIGKILL  # once more does nothing


async def test_child_that_fails_says_why_in_its_log(tmp_path: Path) -> None:
    """It ends with code 1, and never returns into the nursery."""
    async with _a_nursery() as ward:
        child = await ward.start("devices", DEVICES, {}, tmp_path / "log")
        assert await child.ended() == 1
        assert "KeyError" in (tmp_path / "log").read_text()
        second = await ward.start("devices", DEVICES, {}, tmp_path / "log")
        assert await second.ended() == 1


async def test_children_end_with_the_nursery(tmp_path: Path) -> None:
    """Whoever leaves the context, or dies, leaves nobody behind."""
    async with _a_nursery() as ward:
        child = await ward.start("devices", DEVICES, _a_plan(tmp_path), tmp_path / "log")
        await _until(tmp_path / "notes", b"born")
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


async def test_end_of_the_nursery_itself_is_an_error() -> None:
    """Nobody waits for ever for a child that is not there."""
    async with nursery() as ward:
        listening = asyncio.create_task(ward.listen())
        os.kill(ward.pid, signal.SIGKILL)
        with pytest.raises(FederationError, match="nursery"):
            await listening
