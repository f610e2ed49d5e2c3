import asyncio
import os
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.cases import Case
from bench.children import environment, until_all_left, while_all_run
from bench.turn import Setting
from bench.work import MODEL_BYTES
from shared.errors import FederationError
from simulator.processes import Child, child_process


def a_module(folder: Path, code: str) -> str:
    """Write a module; return its name."""
    (folder / "program.py").write_text(code)
    return "program"


async def started(stack: AsyncExitStack, folder: Path, code: str) -> Child:
    """Start a process that runs this code."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())])}
    module = a_module(folder, code)
    return await stack.enter_async_context(
        child_process("server", module, [], log=folder / "server.log", environment=variables)
    )


async def for_ever() -> None:
    """Work that is never done."""
    await asyncio.Event().wait()


async def test_process_that_ends_too_early_ends_the_work_with_its_last_words(tmp_path: Path) -> None:
    """Nobody waits for a server that has died, and its log is in the error."""
    async with AsyncExitStack() as stack:
        child = await started(stack, tmp_path, "raise SystemExit('the disk is on fire')")
        with pytest.raises(FederationError, match=re.compile("exit code 1.*the disk is on fire", re.DOTALL)):
            await while_all_run([child], for_ever())


async def test_silent_server_is_named_with_its_log(tmp_path: Path) -> None:
    """Work that waited long enough becomes an error that says where to look."""

    async def impatient() -> None:
        async with asyncio.timeout(0):
            await for_ever()

    async with AsyncExitStack() as stack:
        child = await started(stack, tmp_path, "input()")
        with pytest.raises(FederationError, match=r"nothing is heard of server .*server\.log"):
            await while_all_run([child], impatient())


async def test_processes_may_end_once_the_work_is_done(tmp_path: Path) -> None:
    """All are waited for; one that ends badly even then has failed."""
    async with AsyncExitStack() as stack:
        child = await started(stack, tmp_path, "")
        await until_all_left([child])
        child = await started(stack, tmp_path, "raise SystemExit(7)")
        with pytest.raises(FederationError, match="exit code 7"):
            await until_all_left([child])


def test_processes_know_the_size_of_the_model_and_no_settings_of_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that the operator has set for another run does not change what is measured."""
    monkeypatch.setenv("FEDMQ__ROUND__REPORT_GOAL", "3")
    setting = Setting(case=Case.parse("1x64KiB"), n_rounds=1, n_processes=1, folder=tmp_path)
    variables = environment(setting)
    assert variables[MODEL_BYTES] == "65536"
    assert not [name for name in variables if name.startswith("FEDMQ__")]
