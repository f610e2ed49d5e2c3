import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from shared.errors import AlreadyServed
from simulator.processes import Child, child_process, stop

SLEEPER = """
import fcntl, pathlib, time
file = pathlib.Path(__file__).with_name("held").open("wb")
fcntl.flock(file, fcntl.LOCK_EX)
print("started", flush=True)
time.sleep(600)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SLEEPER
BROKEN = "print('one'); print('two'); raise SystemExit(4)"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that children can run as modules, beside our own packages."""
    for name, source in {"sleeper": SLEEPER, "stubborn": STUBBORN, "broken": BROKEN}.items():
        (tmp_path / f"{name}.py").write_text(source + "\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    return tmp_path


async def _until_started(child: Child) -> None:
    async with asyncio.timeout(10.0):
        while b"started" not in child.log.read_bytes():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)


def _is_alive(modules: Path) -> bool:
    """Whether the sleeper holds its file: an ended process may keep its id until somebody asks for its exit code."""
    with (modules / "held").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_child_ends_when_its_context_is_left(modules: Path) -> None:
    """Nothing is left behind."""
    async with child_process("sleeper", "sleeper", [], log=modules / "log", environment=os.environ) as child:
        await _until_started(child)
        assert child.is_running
        assert _is_alive(modules)
    assert not _is_alive(modules)
    assert await child.ended() == -signal.SIGTERM


async def test_child_that_ignores_sigterm_is_killed(modules: Path) -> None:
    """Whoever does not listen is ended all the same."""
    async with child_process("stubborn", "stubborn", [], log=modules / "log", environment=os.environ) as child:
        await _until_started(child)
        await stop(child, grace_s=0.05)
        assert await child.ended() == -signal.SIGKILL


async def test_failure_shows_the_tail_of_the_log(modules: Path) -> None:
    """A child's failure is an error of the kind its exit code means, with its name and what it wrote last."""
    async with child_process("aggregator", "broken", [], log=modules / "log", environment=os.environ) as child:
        failure = child.failure(await child.ended())
    assert isinstance(failure, AlreadyServed)
    assert "aggregator ended with exit code 4" in str(failure)
    assert str(failure).endswith("  one\n  two")


async def test_children_die_with_a_starter_that_is_killed(modules: Path) -> None:
    """SIGKILL to the starter, who can tell nobody, ends its children too."""
    starter = (
        "import asyncio, os, pathlib\n"
        "from simulator.processes import child_process\n"
        "async def main():\n"
        f"    log = pathlib.Path({str(modules / 'log')!r})\n"
        "    async with child_process('sleeper', 'sleeper', [], log=log, environment=os.environ) as child:\n"
        "        while b'started' not in log.read_bytes():\n"
        "            await asyncio.sleep(0.01)\n"
        "        print(flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", starter, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    assert _is_alive(modules)
    process.kill()
    await process.wait()
    async with asyncio.timeout(10.0):
        while _is_alive(modules):  # noqa: ASYNC110 - no event tells of a grandchild's end
            await asyncio.sleep(0.01)
