"""Buffers travel as float32, whatever the codec of the rest.

A running mean or variance is averaged and never stepped, so nothing downstream forgives an error in it: a variance that
rounding has made negative is a model of NaN. And its values are of another size than those beside it, so that whatever
scale both share is wrong for one of them. There are few: two for each channel of a norm layer.

What is encoded is the vector without its buffers, as if that were all. Behind it come the buffers. Decoding takes the
codec's memory, a block, and the buffers.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.codecs.codec import BLOCK_PARAMS, Blocks, Bytes, Codec, Readable, refuse_length
from shared.errors import InvalidState
from shared.parameters import Vector

__all__ = ["ExactBuffers"]


class ExactBuffers:
    """See `Codec`.

    Args:
        codec: of everything else; not float32, which has no need of this.
        is_buffer: (n_params,) bool.
    """

    def __init__(self, codec: Codec, is_buffer: NDArray[np.bool_]) -> None:
        self.name, self.needs_feedback = codec.name, codec.needs_feedback
        self._codec, self._is_buffer = codec, is_buffer
        self._n_buffers = int(np.count_nonzero(is_buffer))
        self._n_others = len(is_buffer) - self._n_buffers
        self.has_fixed_length = codec.has_fixed_length or not self._n_others

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        self._refuse_other(len(vector))
        others = self._codec.encode(vector[~self._is_buffer], seed) if self._n_others else b""
        return others + vector[self._is_buffer].astype("<f4", copy=False).tobytes()

    def encoded_bytes(self, n_params: int) -> int:
        self._refuse_other(n_params)
        return (self._codec.encoded_bytes(self._n_others) if self._n_others else 0) + 4 * self._n_buffers

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        refuse_length(self, len(data), n_params)
        view = memoryview(data) if isinstance(data, Bytes) else data
        n_before = len(data) - 4 * self._n_buffers
        if self._n_others:
            refuse_length(self._codec, n_before, self._n_others)
        # first, and kept: a file is read from its beginning to its end best
        buffers = np.frombuffer(bytes(view[n_before : len(data)]), "<f4").astype(np.float32, copy=False)
        others = _Others(self._codec.blocks(_Front(view, n_before), self._n_others) if self._n_others else iter(()))
        values = np.empty(min(BLOCK_PARAMS, n_params), np.float32)
        for start in range(0, n_params, BLOCK_PARAMS):
            is_buffer = self._is_buffer[start : start + BLOCK_PARAMS]
            block, n_buffers = values[: len(is_buffer)], int(np.count_nonzero(is_buffer))
            if n_buffers:
                block[~is_buffer] = others.take(np.empty(len(block) - n_buffers, np.float32))
                block[is_buffer], buffers = buffers[:n_buffers], buffers[n_buffers:]
            else:
                others.take(block)
            yield start, block
        others.end()

    def _refuse_other(self, n_params: int) -> None:
        if n_params != len(self._is_buffer):
            raise InvalidState(f"the codec of a model of {len(self._is_buffer)} parameters is asked about {n_params}")


class _Front:
    """The first bytes of others."""

    def __init__(self, data: Readable, n_bytes: int) -> None:
        self._data, self._n_bytes = data, n_bytes

    def __len__(self) -> int:
        return self._n_bytes

    def __getitem__(self, part: slice) -> Bytes:
        first, last, _ = part.indices(self._n_bytes)
        return self._data[first:last]


class _Others:
    """Values out of blocks, as many as are asked for."""

    def __init__(self, blocks: Iterator[tuple[int, Vector]]) -> None:
        self._blocks = blocks
        self._left = np.empty(0, np.float32)

    def take(self, values: Vector) -> Vector:
        """Fill with the next values; return it."""
        n_filled = 0
        while n_filled < len(values):
            if not len(self._left):
                _, self._left = next(self._blocks)
            n = min(len(self._left), len(values) - n_filled)
            values[n_filled : n_filled + n] = self._left[:n]
            self._left, n_filled = self._left[n:], n_filled + n
        return values

    def end(self) -> None:
        """Let the codec see that nothing follows."""
        for _ in self._blocks:
            raise InvalidState("more values than there are parameters")
