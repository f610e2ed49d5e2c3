"""A disk that loses what was not synchronised, and machines that die in the middle of writing.

Services write as they always do. Inside the context of a `LossyDisk` the few calls that decide what is durable
(fsync, fdatasync, rename, unlink, pwrite, a commit of SQLite) are watched while a `Machine` works. A machine dies in
one of two ways. *Killed*: the operating system has everything that was written. *Power cut*: unsynchronised writes and
names may be lost, page by page. Dying within a call tears it.

What is left is an `Image`, taken at the instant of death, so that nothing a dying program still does can change it; the
next life begins on it.

Not here: who dies when (`schedules.py`), what a power cut leaves of files and folders (`disk_image.py`). SQLite's own
calls are not seen: a commit counts as durable once it has returned, and one that is cut leaves its log torn.
"""

import asyncio
import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

from simulator.disk_image import Durable, Image, listing, mixed, survivors

__all__ = ["Death", "Died", "LossyDisk", "Machine", "Step"]

T = TypeVar("T")


class Step(StrEnum):
    """A call that decides what is durable."""

    COMMIT = "commit"  # of SQLite
    SYNC = "sync"
    RENAME = "rename"
    UNLINK = "unlink"
    WRITE = "write"  # at an offset


_CALLS = {
    "fsync": Step.SYNC,
    "fdatasync": Step.SYNC,
    "replace": Step.RENAME,
    "rename": Step.RENAME,
    "unlink": Step.UNLINK,
    "pwrite": Step.WRITE,
}
_TAKES_ROOM = frozenset({Step.SYNC, Step.WRITE})


class Died(BaseException):
    """Raised out of the call in which a machine died. Nobody hears of its life any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """When and how a machine dies within its own work.

    Args:
        step: which calls are counted; None: all.
        at: which of them it is, from 1 on.
        is_power_cut: whether what is not synchronised may be lost.
        seed: of what is lost, and of whether it dies before, within or after that call.
    """

    step: Step | None = None
    at: int = 1
    is_power_cut: bool = False
    seed: str = ""


class LossyDisk:
    """Watches the calls of every machine. To be used as a context, in one thread, one at a time.

    Args:
        is_honest: False: it says of everything that it is synchronised, and loses it all the same.
    """

    def __init__(self, *, is_honest: bool = True) -> None:
        self.is_honest = is_honest
        self.at_work: Machine | None = None
        self._machines: dict[str, Machine] = {}
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name, step in _CALLS.items():
            call = self._real[name] = getattr(os, name)
            setattr(os, name, partial(self._watch, step, call))
        self._real["connect"] = sqlite3.connect
        sqlite3.connect = self._connect  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sqlite3.connect = self._real.pop("connect")
        for name, call in self._real.items():
            setattr(os, name, call)
        for machine in self._machines.values():
            machine.close()

    def machine(self, name: str, folder: Path) -> "Machine":
        """Return the machine of a name; it is made, with its folder, when first asked for."""
        if name not in self._machines:
            folder.mkdir(parents=True, exist_ok=True)
            self._machines[name] = Machine(self, folder)
        return self._machines[name]

    def _watch(self, step: Step, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.at_work is None:  # the loop's own, when a service starts
            result = call(*args, **kwargs)
            if step is Step.SYNC and self.is_honest:
                for machine in self._machines.values():
                    machine.synced(args[0])
            return result
        return self.at_work.step(step, call, *args, **kwargs)

    def _connect(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = self._real["connect"](*args, **kwargs, factory=_Connection)
        assert isinstance(connection, _Connection)
        if self.at_work is not None:
            self.at_work.opened(connection, Path(connection.execute("PRAGMA database_list").fetchone()[2]))
        return connection


class _Connection(sqlite3.Connection):
    """Tells its machine of commits."""

    machine: "Machine | None" = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        is_commit = sql.startswith("COMMIT") if self.in_transaction else sql.startswith(("INSERT", "UPDATE", "DELETE"))
        return self._call(is_commit, super().execute, sql, parameters)

    def executescript(self, sql: str, /) -> sqlite3.Cursor:
        return self._call(True, super().executescript, sql)

    def commit(self) -> None:
        self._call(self.in_transaction, super().commit)

    def close(self) -> None:
        if self.machine is not None:
            self.machine.connections.remove(self)
            self.machine = None
        super().close()

    def __exit__(self, *args: Any) -> Any:
        return self._call(args[0] is None and self.in_transaction, super().__exit__, *args)

    def _call(self, is_commit: bool, call: Callable[..., T], *args: Any) -> T:
        if self.machine is None or not is_commit:
            return call(*args)
        if self.machine.is_full:
            self.rollback()
            raise sqlite3.OperationalError("database or disk is full")
        return self.machine.step(Step.COMMIT, call, *args)


class Machine:
    """One computer's disk, as far as a service uses it; its folder itself is always there."""

    def __init__(self, disk: LossyDisk, folder: Path) -> None:
        self._disk = disk
        self.folder = folder
        self.connections: list[_Connection] = []
        """Databases that are open."""
        self.n_steps: dict[Step, int] = dict.fromkeys(Step, 0)
        """Calls so far, over all lives."""
        self.is_full = False
        """Whether it takes no more: whatever would make more of it durable fails."""
        self.keeps_book = True
        """Whether it remembers what is durable: only who is never asked what a power cut leaves may do without."""
        self._awaited: list[tuple[Step, int, asyncio.Future[None]]] = []
        self._databases: set[str] = set()
        self._durable = Durable()
        self._dies: tuple[Death, Callable[[Image], None]] | None = None
        self._n_to_live = 0

    def work(self, work: Callable[[], T]) -> T:
        """Do a piece of this machine's work."""
        self._disk.at_work, before = self, self._disk.at_work
        try:
            return work()
        finally:
            self._disk.at_work = before

    def die_within(self, death: Death, die: Callable[[Image], None]) -> None:
        """Die in a call that is still to come; `die` is told at that instant, with what is left."""
        self._dies, self._n_to_live = (death, die), death.at

    def opened(self, connection: "_Connection", path: Path) -> None:
        """A database was opened by this machine."""
        connection.machine = self
        self.connections.append(connection)
        name = path.relative_to(self.folder).as_posix()
        self._databases |= {name, f"{name}-wal"}

    async def reached(self, step: Step, n: int) -> None:
        """Wait until so many calls of a kind were made, over all lives."""
        if self.n_steps[step] < n:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((step, n, reached))
            await reached

    def image(self, rng: Random | None) -> Image:
        """Return what is on the disk; with a source of chance: what a power cut leaves of it."""
        databases = self._databases if self._disk.is_honest else ()
        image = survivors(self.folder, self._durable, rng, databases)
        # an index in shared memory, built anew by whoever opens the database next
        return Image(image.folders, {path: data for path, data in image.files.items() if not path.endswith("-shm")})

    def restore(self, image: Image) -> None:
        """Begin anew on what is left; whoever used the disk is dead."""
        self.close()
        self._dies = None
        self._durable = image.write(self.folder)

    def close(self) -> None:
        """Let go of every file."""
        for connection in list(self.connections):
            connection.close()
        self._durable.close()

    def step(self, step: Step, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make a call, unless this is where the machine dies.

        Raises:
            Died: this is where.
            OSError: the disk is full.
        """
        self.n_steps[step] += 1
        for awaited in [each for each in self._awaited if each[0] is step and each[1] <= self.n_steps[step]]:
            self._awaited.remove(awaited)
            if not awaited[2].done():
                awaited[2].set_result(None)
        if self.is_full and step in _TAKES_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._dies is not None and self._dies[0].step in (None, step):
            self._n_to_live -= 1
            if not self._n_to_live:
                self._die(step, partial(call, *args, **kwargs), args)
        result = call(*args, **kwargs)
        if step is Step.SYNC and self._disk.is_honest:
            self.synced(args[0])
        return result

    def _die(self, step: Step, call: Callable[[], object], args: tuple[Any, ...]) -> None:
        assert self._dies is not None
        death, die = self._dies
        self._dies = None
        rng = Random(f"{death.seed}/death")
        where, power = rng.choice(("before", "within", "after")), rng if death.is_power_cut else None
        if where == "before" or (where == "within" and step is Step.SYNC):
            image = self.image(power)
        elif where == "within" and step is Step.COMMIT:
            image = self._torn(call, power, rng)
        else:
            if where == "within" and step is Step.WRITE:
                descriptor, data, offset = args
                os.lseek(descriptor, offset, os.SEEK_SET)
                os.write(descriptor, data[: rng.randrange(len(data) + 1)])
            else:
                call()
                if step is Step.SYNC and self._disk.is_honest:
                    self.synced(args[0])
            image = self.image(power)
        die(image)
        raise Died(f"{where} {step} {self.n_steps[step]}")

    def _torn(self, commit: Callable[[], object], power: Random | None, rng: Random) -> Image:
        """Commit, and return what is left when it was cut: the log up to any byte, or any of its pages."""
        before = {path: _content(self.folder / path) for path in self._databases}
        commit()
        image = self.image(power)
        files = dict(image.files)
        after = {path: _content(self.folder / path) for path in self._databases}
        if all(before.get(path) == data for path, data in after.items() if not path.endswith("-wal")):
            for path, data in after.items():  # once the log is copied into the database it had been synchronised
                old = before.get(path, b"")
                if path.endswith("-wal") and path in files:
                    files[path] = mixed(old, data, rng) if power else _cut(old, data, rng)
        return Image(image.folders, files)

    def synced(self, descriptor: int) -> None:
        """What a descriptor stands for was synchronised; nothing if it is not of this machine."""
        if not self.keeps_book:
            return
        status = os.fstat(descriptor)
        path = self._path_of(status.st_ino) if stat.S_ISDIR(status.st_mode) else ""
        if path is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._durable.folder_synced(path, listing(self.folder / path))
        else:
            self._durable.file_synced(descriptor, status.st_ino, self._read(descriptor, status))

    def _read(self, descriptor: int, status: os.stat_result) -> bytes:
        try:
            return os.pread(descriptor, status.st_size, 0)
        except OSError:  # it is open for writing alone
            path = self._path_of(status.st_ino)
            return b"" if path is None else _content(self.folder / path)

    def _path_of(self, inode: int) -> str | None:
        """Return where below this machine's folder something lies; None: elsewhere."""
        for top, _, _ in os.walk(self.folder):
            if os.stat(top).st_ino == inode:
                return "" if top == str(self.folder) else Path(top).relative_to(self.folder).as_posix()
            with os.scandir(top) as entries:
                for entry in entries:
                    if entry.inode() == inode and not entry.is_dir():
                        return (Path(top) / entry.name).relative_to(self.folder).as_posix()
        return None


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _cut(old: bytes, new: bytes, rng: Random) -> bytes:
    """Return a file of which a program has written a part when it was killed."""
    n_written = rng.randint(len(old) if new.startswith(old) else 0, len(new))
    return new[:n_written] + old[n_written:]
