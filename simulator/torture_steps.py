"""Where an aggregator of the torture kills itself: at the nth passage of one step of its own work.

Nothing of the aggregator is changed. Its blocking work comes by through `RunBlocking`, so the lane is known; what that
work asks of the operating system (`os.fsync`, `os.rename`, …) and of SQLite is listened to in this process only. A kill
is a SIGKILL of one's own process from the very thread, so nothing runs after it.

A SIGKILL alone loses nothing that was written. So before it, half of the times, what was written with `os.pwrite` and
not synchronised since becomes what a power failure may leave: whole, torn, or as it was before; a version file that
was not synchronised is cut.

Linux: it asks `/proc` which file a number stands for. Not here: which step, and which passage (`torture_plan.py`).
"""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from shared.blocking import Lane, RunBlocking

__all__ = ["SelfKilling", "Step"]

T = TypeVar("T")


class Step(StrEnum):
    """A point in the aggregator's work. The value is the name in the tally."""

    BEFORE_COMMIT = "journal before COMMIT"
    BEFORE_HEAD = "journal after COMMIT, before the head"
    HEAD_UNSYNCED = "journal head written, not synchronised"
    BEFORE_RECEIPTS = "journal durable, before receipts"
    BEFORE_FOLD = "before an update is checked or folded"
    PART_UNSYNCED = "update whole, before fsync"
    BEFORE_RENAME = "update synchronised, before rename"
    BEFORE_ACCEPT = "update renamed, before ACCEPT"
    VERSION_UNSYNCED = "version written, before fsync"
    VERSION_RENAME = "version synchronised, before rename"
    VERSION_WRITTEN = "version renamed, before COMMIT row"
    BEFORE_PUBLISH = "COMMIT row durable, before publishing"


@dataclass(slots=True)
class _Write:
    """Bytes that are not synchronised yet, and what they replaced."""

    offset: int
    new: bytes
    old: bytes


class SelfKilling:
    """A `RunBlocking` that ends the process. One a process.

    Args:
        inner: does the work.
        step: at which to end; None: never.
        nth: passage of that step, from 1.
        rng: decides what becomes of unsynchronised bytes.
        kill: ends the process.
    """

    def __init__(
        self, inner: RunBlocking, step: Step | None, nth: int, rng: Random, kill: Callable[[], None] | None = None
    ) -> None:
        self._inner, self._step, self._nth, self._rng = inner, step, nth, rng
        self._kill = kill or partial(os.kill, os.getpid(), signal.SIGKILL)
        self._here = threading.local()
        self._lock = threading.Lock()
        self._has_version = False  # one was renamed, and its row is still to come
        self._unsynced: dict[str, list[_Write]] = {}
        self._pwrite = os.pwrite

    async def __call__(self, lane: Lane, work: Callable[[], T]) -> T:
        """See `RunBlocking`."""
        return await self._inner(lane, partial(self._work, lane, work))

    def _work(self, lane: Lane, work: Callable[[], T]) -> T:
        self._here.lane = lane
        if lane is Lane.COMPUTE:
            self._pass(Step.BEFORE_FOLD)
        done = work()
        if lane is Lane.JOURNAL:
            self._pass(Step.BEFORE_RECEIPTS)
            if self._has_version:
                self._pass(Step.BEFORE_PUBLISH)
        return done

    def listen(self, setattr_: Callable[[Any, str, Any], None] = setattr) -> None:
        """Listen to what this process asks of the operating system and of SQLite, from now on."""
        for name in ("fsync", "fdatasync"):
            setattr_(os, name, partial(self._sync, getattr(os, name)))
        for name in ("rename", "replace"):
            setattr_(os, name, partial(self._rename, getattr(os, name)))
        setattr_(os, "pwrite", self._write)
        if self._step is Step.BEFORE_COMMIT:  # a trace has its price: every statement is written out for it
            setattr_(sqlite3, "connect", partial(self._connect, sqlite3.connect))

    # what is listened to

    def _connect(self, connect: Callable[..., sqlite3.Connection], *args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.set_trace_callback(self._statement)
        return connection

    def _statement(self, statement: str) -> None:
        if statement.startswith("COMMIT"):
            self._pass(Step.BEFORE_COMMIT)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        if self._lane is Lane.JOURNAL:
            self._pass(Step.BEFORE_HEAD)
        old = self._read(fd, len(data), offset)
        n_written = self._pwrite(fd, data, offset)
        with self._lock:
            self._unsynced.setdefault(_path_of(fd), []).append(_Write(offset, bytes(data[:n_written]), old))
        return n_written

    def _read(self, fd: int, length: int, offset: int) -> bytes:
        try:
            found = os.pread(fd, length, offset)
        except OSError:  # open for writing alone
            found = b""
        return found.ljust(length, b"\0")

    def _sync(self, sync: Callable[[int], None], fd: int) -> None:
        path = _path_of(fd)
        if path.endswith(".part"):
            self._pass(Step.PART_UNSYNCED)
        elif self._lane is Lane.JOURNAL:
            self._pass(Step.HEAD_UNSYNCED)
        elif Path(path).parent.name == "versions":
            self._pass(Step.VERSION_UNSYNCED, cut=Path(path))
        sync(fd)
        with self._lock:
            self._unsynced.pop(path, None)

    def _rename(self, rename: Callable[..., None], old: Any, new: Any, **options: Any) -> None:
        is_version, is_update = Path(new).parent.name == "versions", str(new).endswith(".update")
        if is_version:
            self._pass(Step.VERSION_RENAME)
        elif is_update:
            self._pass(Step.BEFORE_RENAME)
        rename(old, new, **options)
        if is_version:
            self._has_version = True
            self._pass(Step.VERSION_WRITTEN)
        elif is_update:
            with self._lock:
                self._unsynced.pop(os.fspath(old), None)
            self._pass(Step.BEFORE_ACCEPT)

    @property
    def _lane(self) -> Lane | None:
        return getattr(self._here, "lane", None)

    # the end

    def _pass(self, step: Step, *, cut: Path | None = None) -> None:
        """Count a passage of a step, and end there when it is the one."""
        if step is not self._step:
            return
        with self._lock:
            self._nth -= 1
            if self._nth:
                return
            if self._rng.random() < 0.5:
                self._lose_power(cut)
        self._kill()

    def _lose_power(self, cut: Path | None) -> None:
        """Leave of unsynchronised bytes what a power failure may leave of them."""
        for path, writes in self._unsynced.items():
            try:
                fd = os.open(path, os.O_RDWR)
            except OSError:  # deleted
                continue
            for write in reversed(writes):
                n_kept = self._rng.choice((0, len(write.new), self._rng.randrange(len(write.new) + 1)))
                self._pwrite(fd, write.new[:n_kept] + write.old[n_kept:], write.offset)
            os.close(fd)
        if cut is not None and cut.is_file():
            os.truncate(cut, self._rng.randrange(cut.stat().st_size + 1))


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")
