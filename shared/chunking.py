"""Bytes in pieces: how many, which are there, which are missing, and what each must hash to.

A model on its way down and an update on its way up are cut the same way. Not here: when a chunk is asked for
(`aggregator/uploads.py`, `edge_client/model_cache.py`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.errors import InvalidState

__all__ = ["Bitmap", "ChunkLayout", "from_ranges", "sha256_hex", "to_ranges"]


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the sha-256 as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How `size` bytes fall into chunks: all of `chunk_bytes` but the last.

    Args:
        size: bytes of the whole, >= 0; nothing is still one (empty) chunk.
        chunk_bytes: bytes a chunk, >= 1.
    """

    size: int
    chunk_bytes: int

    def __post_init__(self) -> None:
        if self.size < 0 or self.chunk_bytes < 1:
            raise InvalidState(f"no layout for {self.size} bytes in chunks of {self.chunk_bytes}")

    def __len__(self) -> int:
        """Return the number of chunks, >= 1."""
        return max(1, -(-self.size // self.chunk_bytes))

    def start(self, index: int) -> int:
        """Return the offset of chunk `index` in bytes."""
        return index * self.chunk_bytes

    def length(self, index: int) -> int:
        """Return the length of chunk `index` in bytes.

        Raises:
            InvalidState: there is no such chunk.
        """
        if not 0 <= index < len(self):
            raise InvalidState(f"chunk {index} of {len(self)}")
        return min(self.chunk_bytes, self.size - self.start(index))

    def cut(self, data: bytes | memoryview, index: int) -> memoryview:
        """Return chunk `index` of `data` without copying.

        Raises:
            InvalidState: there is no such chunk, or `data` is not as long as the layout says.
        """
        if len(data) != self.size:
            raise InvalidState(f"{len(data)} bytes are cut by a layout of {self.size}")
        return memoryview(data)[self.start(index) : self.start(index) + self.length(index)]


class Bitmap:
    """Which of `n` chunks are there."""

    __slots__ = ("_bits", "_n_set", "n")

    def __init__(self, n: int, bits: bytes | None = None) -> None:
        n_bytes = max(0, -(-n // 8))
        self.n = n
        self._bits = bytearray(n_bytes) if bits is None else bytearray(bits)
        if n < 0 or len(self._bits) != n_bytes or (n % 8 and self._bits[-1] >> (n % 8)):
            raise InvalidState(f"{len(self._bits)} bytes are no bitmap of {n} chunks")
        self._n_set = sum(byte.bit_count() for byte in self._bits)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.n and bool(self._bits[index >> 3] & (1 << (index & 7)))

    def add(self, index: int) -> bool:
        """Mark a chunk; return whether it was missing until now."""
        if not 0 <= index < self.n:
            raise InvalidState(f"chunk {index} of {self.n}")
        if index in self:
            return False
        self._bits[index >> 3] |= 1 << (index & 7)
        self._n_set += 1
        return True

    def clear(self) -> None:
        """Mark all as missing."""
        self._bits = bytearray(len(self._bits))
        self._n_set = 0

    @property
    def n_set(self) -> int:
        """How many are there."""
        return self._n_set

    @property
    def is_full(self) -> bool:
        """Whether none is missing."""
        return self._n_set == self.n

    def missing(self) -> Iterable[int]:
        """Yield the missing chunks in ascending order."""
        return (i for i in range(self.n) if i not in self)

    def to_bytes(self) -> bytes:
        """Return eight chunks a byte, the lowest bit first."""
        return bytes(self._bits)


def to_ranges(indexes: Iterable[int], *, at_most: int) -> list[tuple[int, int]]:
    """Return ascending indexes as closed ranges [first, last]; what does not fit into `at_most` ranges is left out."""
    ranges: list[tuple[int, int]] = []
    for index in indexes:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        elif len(ranges) == at_most:
            break
        else:
            ranges.append((index, index))
    return ranges


def from_ranges(ranges: Sequence[tuple[int, int]], *, n: int) -> list[int]:
    """Return the indexes below `n` that closed ranges name, each once, in the order given."""
    return list(dict.fromkeys(i for first, last in ranges for i in range(first, min(last, n - 1) + 1)))
