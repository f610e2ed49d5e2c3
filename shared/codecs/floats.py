"""Numbers as they are, or as halves.

`float32` is exact. `float16` halves the bytes; its relative error is at most 2^-11 for magnitudes in
[6.1e-5, 65504], below that the absolute error is at most 2^-25, and larger magnitudes are clipped to 65504. Both decode
in O(block) memory.
"""

import numpy as np
from numpy.typing import NDArray

from shared.codecs.codec import BLOCK_PARAMS, Blocks, Bytes, Codec, Readable, refuse_length

__all__ = ["FLOAT16", "FLOAT32"]


class _Floats:
    """Little-endian IEEE numbers, one after the other."""

    has_fixed_length = True
    needs_feedback = False

    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self._dtype = np.dtype(dtype)

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        if self._dtype.itemsize == 2:
            largest = float(np.finfo(np.float16).max)
            return np.clip(vector, -largest, largest).astype(self._dtype).tobytes()
        return vector.astype(self._dtype, copy=False).tobytes()

    def encoded_bytes(self, n_params: int) -> int:
        return n_params * self._dtype.itemsize

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        refuse_length(self, len(data), n_params)
        view = memoryview(data) if isinstance(data, Bytes) else data
        for start in range(0, n_params, BLOCK_PARAMS):
            first, last = start * self._dtype.itemsize, min(start + BLOCK_PARAMS, n_params) * self._dtype.itemsize
            with np.errstate(invalid="ignore"):  # of a signalling NaN
                block = np.frombuffer(view[first:last], self._dtype).astype(np.float32, copy=False)
            yield start, block


FLOAT32: Codec = _Floats("float32", "<f4")
FLOAT16: Codec = _Floats("float16", "<f2")
