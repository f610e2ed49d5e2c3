"""`python -m simulator.torture_nursery`: a process that starts others by forking, once it has imported what they need.

A new interpreter takes most of a second of a core to import the project; a fork takes milliseconds. What is forked is a
process like any other: with its own memory, killed by SIGKILL, ended without a word. Commands come as lines of JSON on
standard input, what became of them goes to standard output; when standard input closes, all children are killed.

Linux and other Unix. Not here: what the children do (`torture_aggregator.py`, `torture_devices.py`).
"""

import asyncio
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shared.errors import FederationError

__all__ = ["Nursery", "Nursling", "nursery"]

MODULES = ("simulator.torture_aggregator", "simulator.torture_devices")
"""What is imported before the first fork; each has `main(plan) -> int`."""
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_LIMIT = 1 << 20


class Nursling:
    """One child of the nursery.

    Args:
        name: what to call it.
        pid: of the process.
        log: where its output goes.
    """

    def __init__(self, name: str, pid: int, log: Path) -> None:
        self.name, self.pid, self.log = name, pid, log
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def is_running(self) -> bool:
        """Whether nobody has heard of its end."""
        return not self._ended.done()

    async def ended(self) -> int:
        """Wait for its end and return the exit code; minus the signal's number when one ended it."""
        return await asyncio.shield(self._ended)

    def has_ended(self, code: int) -> None:
        """Take note of its end."""
        if not self._ended.done():
            self._ended.set_result(code)


class Nursery:
    """The other end of the nursery process. Made by `nursery`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._children: dict[int, Nursling] = {}
        self._early: dict[int, int] = {}  # ended before anybody knew of them
        self._one_at_a_time = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the nursery process itself."""
        return self._process.pid

    async def start(self, name: str, module: str, plan: Mapping[str, Any], log: Path) -> Nursling:
        """Fork a child that runs `main(plan)` of a module; its output is appended to `log`."""
        async with self._one_at_a_time:
            self._say({"start": module, "plan": plan, "log": str(log)})
            pid = await self._born.get()
        child = self._children[pid] = Nursling(name, pid, log)
        if pid in self._early:
            child.has_ended(self._early.pop(pid))
        return child

    async def kill(self, child: Nursling, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a child, unless it has ended, and wait for its end."""
        if child.is_running:
            self._say({"kill": child.pid, "signal": int(number)})
        return await child.ended()

    async def listen(self) -> None:
        """Take what the nursery says, until cancelled.

        Raises:
            FederationError: it has ended.
        """
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            if "born" in said:
                self._born.put_nowait(said["born"])
            elif (child := self._children.pop(said["ended"], None)) is not None:
                child.has_ended(said["code"])
            else:
                self._early[said["ended"]] = said["code"]
        raise FederationError("the nursery of the torture has ended")

    def _say(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")


@asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """Run a nursery until the context is left; then all its children are killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "simulator.torture_nursery"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # a fork copies one thread
        start_new_session=True,
        limit=_LIMIT,
    )
    try:
        yield Nursery(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


class _Ward:
    """The children, as their parent sees them."""

    def __init__(self) -> None:
        self._living: set[int] = set()

    def obey(self, command: Mapping[str, Any]) -> None:
        if "start" in command:
            pid = os.fork()
            if not pid:
                _live(command["start"], command["plan"], command["log"])
            self._living.add(pid)
            _tell({"born": pid})
        elif command["kill"] in self._living:  # never the id of what has ended: it may be another's by now
            os.kill(command["kill"], command["signal"])

    def bury(self) -> None:
        """Tell of everybody who has ended."""
        while self._living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._living.discard(pid)
            _tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def close(self) -> None:
        """Kill everybody."""
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)
        for pid in self._living:
            os.waitpid(pid, 0)


def _tell(what: Mapping[str, int]) -> None:
    os.write(_STDOUT, json.dumps(what).encode() + b"\n")


def _live(module: str, plan: Mapping[str, Any], log: str) -> None:
    """Be the child, to its end."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, _STDIN)
        os.dup2(output, _STDOUT)
        os.dup2(output, _STDERR)
        os.closerange(_STDERR + 1, 256)  # what the nursery itself needs
        code = importlib.import_module(module).main(plan)
    except BaseException:  # whatever it is: it must not return into the nursery
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _lines(fd: int) -> Iterator[list[bytes]]:
    """Yield the whole lines of each read; ends with the file."""
    rest = b""
    while piece := os.read(fd, 1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        yield lines


def _run() -> None:
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()  # the children share these objects' pages for as long as nobody looks at them
    ward, selector = _Ward(), selectors.DefaultSelector()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    selector.register(_STDIN, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    commands = _lines(_STDIN)
    try:
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if wake_read in ready:
                os.read(wake_read, 1 << 12)
                ward.bury()
            if _STDIN in ready:
                lines = next(commands, None)
                if lines is None:
                    return
                for line in lines:
                    ward.obey(json.loads(line))
    finally:
        ward.close()


if __name__ == "__main__":
    _run()
