"""The files of a device in memory, for fleets whose disks lose nothing: no descriptor, no folder, no copy of a model.

What is written is kept as the bytes object that it was. A chunk that a simulated broker hands to ten thousand devices
is thus one object in memory, in whichever of their files it stands.

Not here: what a power cut leaves (`lossy_disk.py`, on real files).
"""

import errno
import io
import os
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["InMemory"]

_ages = count()
"""Of files and folders: what was used later has the larger number."""


class _File:
    """Pieces by their offset, none over another; between them are zeros."""

    __slots__ = ("age", "pieces", "size")

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self.size, self.pieces, self.age = size, pieces, next(_ages)

    def write(self, start: int, data: bytes) -> None:
        self.age, end = next(_ages), start + len(data)
        self.size = max(self.size, end)
        over = [at for at, piece in self.pieces.items() if at < end and start < at + len(piece)]
        if over and (over != [start] or len(self.pieces[start]) != len(data)):
            whole = self.array()
            whole[start:end] = np.frombuffer(data, np.uint8)
            self.pieces = {0: whole.tobytes()}
        else:
            self.pieces[start] = data

    def read(self) -> bytes:
        first = self.pieces.get(0)
        return first if first is not None and len(first) == self.size else self.array().tobytes()

    def array(self) -> NDArray[np.uint8]:
        array = np.zeros(self.size, np.uint8)
        for start, piece in self.pieces.items():
            array[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        return array


class InMemory:
    """See `edge_client.files.Files`.

    Args:
        where: what the folder is called where people read of it.
    """

    __slots__ = ("_entries", "_where", "age")

    def __init__(self, where: str) -> None:
        self._where = where
        self._entries: dict[str, _File | InMemory] = {}
        self.age = next(_ages)

    @property
    def path(self) -> Path:
        return Path(self._where)

    def below(self, name: str) -> "InMemory":
        found = self._entries.get(name)
        if not isinstance(found, InMemory):
            found = self._entries[name] = InMemory(f"{self._where}/{name}")
        return found

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def make(self) -> None:
        """Nothing: it is there."""

    def names(self, suffix: str) -> list[str]:
        return sorted(name for name in self._entries if name.endswith(suffix))

    def newest_first(self, suffix: str = "") -> list[str]:
        return sorted(self.names(suffix), key=lambda name: self._entries[name].age, reverse=True)

    def has(self, name: str) -> bool:
        return name in self._entries

    def size(self, name: str) -> int:
        entry = self._entries.get(name)
        if isinstance(entry, InMemory):
            return sum(map(entry.size, entry._entries))
        return self._file(name).size

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        return self._file(name).read()

    def array(self, name: str) -> NDArray[np.uint8]:
        return self._file(name).array()

    def allocate(self, name: str, n_bytes: int) -> None:
        self._entries[name] = _File(n_bytes, {})

    def write(self, name: str, data: bytes) -> None:
        self._entries[name] = _File(len(data), {0: data})

    def write_at(self, name: str, pieces: dict[int, bytes]) -> None:
        if name not in self._entries:
            self.allocate(name, 0)
        file = self._file(name)
        for start, data in pieces.items():
            file.write(start, data)

    def write_whole(self, name: str, *parts: bytes) -> None:
        self.write(name, parts[0] if len(parts) == 1 else b"".join(parts))

    def write_durably(self, name: str, *parts: bytes) -> None:
        self.write_whole(name, *parts)

    def rename(self, name: str, new: str) -> None:
        self._entries[new] = self._file(name)
        del self._entries[name]

    def sync(self) -> None:
        """Nothing: no power is cut here."""

    def touch(self) -> None:
        self.age = next(_ages)

    def delete(self, name: str) -> None:
        self._entries.pop(name, None)

    def _file(self, name: str) -> _File:
        entry = self._entries.get(name)
        if not isinstance(entry, _File):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self._where}/{name}")
        return entry
