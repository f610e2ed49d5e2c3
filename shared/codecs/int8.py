"""Whole numbers of eight bits with a scale a block, rounded at random: a quarter of the bytes, and unbiased.

Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding"
(NeurIPS 2017, arXiv 1610.02132), §3.1, stochastic quantization: x / scale lies between two whole numbers, and goes to
the upper one with the probability of its distance from the lower. Differs: their scale is a bucket's 2-norm, ours comes
of the largest magnitude of 256 values, so that one large value coarsens 255 others and no more.

Choose it where nothing else is known: it keeps no state, takes milliseconds, and what it adds averages out over the
devices of a round.

* Of finite values up to 3e38, each is off by at most the scale of its block, which is 1/126.75 of the block's largest
  magnitude (2^-110 where that is less). Larger magnitudes are clipped to 3e38. A block of zeros stays zeros.
* The mean over all seeds is off by at most 2^-14 of the scale: the dither has 16 bits, and float32 the rest.
* The same vector and seed give the same bytes everywhere. This relies on the stream of PCG64, which NumPy never
  changes, and on IEEE arithmetic one operation at a time, subnormals included; no order of summation matters.
* Encoding takes 1 MiB beside its input and twice its output, decoding 128 KiB.
"""

import numpy as np
from numpy.typing import NDArray

from shared.codecs.codec import BLOCK_PARAMS, Blocks, Bytes, Codec, Readable, refuse_length

__all__ = ["INT8", "VALUES_PER_SCALE", "Rounding"]

VALUES_PER_SCALE = 256
_LEVELS = 126.75  # not 127: whatever is rounded on the way, the dither carries nothing over 127
_LEAST_SCALE = 2.0**-110  # its inverse times 2^16 is a float32 still
_LARGEST = 3e38  # 127/126.75 of it is a float32 still
_FRACTION_BITS = 16
_PIECE = 2 * BLOCK_PARAMS
"""Values that are encoded at once: what is computed on the way stays in a core's own cache."""


class _Int8:
    """Blocks of one little-endian float32 scale and 256 int8, the last block of fewer: value = scale x int8."""

    name = "int8"
    has_fixed_length = True
    needs_feedback = False

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        n_full = len(vector) // VALUES_PER_SCALE
        encoded = np.empty(self.encoded_bytes(len(vector)), np.uint8)
        blocks = encoded[: n_full * (4 + VALUES_PER_SCALE)].reshape(n_full, 4 + VALUES_PER_SCALE)
        rows = vector[: n_full * VALUES_PER_SCALE].reshape(n_full, VALUES_PER_SCALE)
        stream, rounding = np.random.PCG64(seed), Rounding()
        step = _PIECE // VALUES_PER_SCALE
        for first in range(0, n_full, step):
            piece = rows[first : first + step]
            rounding.encode(piece, _dither(stream, piece.size), blocks[first : first + step])
        if n_full * VALUES_PER_SCALE < len(vector):
            rest = vector[None, n_full * VALUES_PER_SCALE :]  # (1, n < 256)
            rounding.encode(rest, _dither(stream, rest.size), encoded[None, blocks.size :])
        return encoded.tobytes()

    def encoded_bytes(self, n_params: int) -> int:
        return n_params + 4 * -(-n_params // VALUES_PER_SCALE)

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        refuse_length(self, len(data), n_params)
        view = memoryview(data) if isinstance(data, Bytes) else data
        values = np.empty(min(BLOCK_PARAMS, n_params), np.float32)
        for start in range(0, n_params, BLOCK_PARAMS):
            stop = min(start + BLOCK_PARAMS, n_params)
            encoded = np.frombuffer(view[self.encoded_bytes(start) : self.encoded_bytes(stop)], np.uint8)
            n_full = (stop - start) // VALUES_PER_SCALE
            n_bytes = n_full * (4 + VALUES_PER_SCALE)
            block = values[: stop - start]
            _decode(
                encoded[:n_bytes].reshape(n_full, 4 + VALUES_PER_SCALE),
                block[: n_full * VALUES_PER_SCALE].reshape(n_full, VALUES_PER_SCALE),
            )
            if n_bytes < len(encoded):
                _decode(encoded[None, n_bytes:], block[None, n_full * VALUES_PER_SCALE :])
            yield start, block


def _dither(stream: np.random.PCG64, n: int) -> NDArray[np.uint16]:
    """Draw (n,) uint16, four of each number of the generator, the lowest bits first."""
    return stream.random_raw(-(-n // 4)).astype("<u8", copy=False).view("<u2")[:n]


class Rounding:
    """Rounds up where the dither carries, at most 2^16 values at a time."""

    def __init__(self) -> None:
        self._scaled = np.empty(_PIECE, np.float32)
        self._whole = np.empty(_PIECE, np.int32)

    def encode(self, rows: NDArray[np.float32], dither: NDArray[np.uint16], encoded: NDArray[np.uint8]) -> None:
        """Encode blocks.

        Args:
            rows: (n_blocks, n) float32.
            dither: (n_blocks x n,) uint16, uniform.
            encoded: (n_blocks, 4 + n) uint8, written to.
        """
        scaled = self._scaled[: rows.size].reshape(rows.shape)
        whole = self._whole[: rows.size].reshape(rows.shape)
        peaks = np.abs(rows, out=scaled).max(axis=1, keepdims=True)  # (n_blocks, 1)
        if (peaks > _LARGEST).any():
            rows = np.clip(rows, -_LARGEST, _LARGEST)
            np.minimum(peaks, _LARGEST, out=peaks)
        scales = np.maximum(peaks / np.float32(_LEVELS), np.float32(_LEAST_SCALE))
        scales[peaks == 0] = 0  # so that blocks of zeros are all the same bytes
        factors = np.divide(np.float32(2.0**_FRACTION_BITS), scales, out=np.zeros_like(scales), where=scales > 0)
        np.rint(np.multiply(rows, factors, out=scaled), out=scaled)  # whole numbers of 2^-16 levels, under 2^23
        with np.errstate(invalid="ignore"):  # of a NaN, which the scale keeps
            np.copyto(whole, scaled, casting="unsafe")
        whole += dither.reshape(rows.shape)
        whole >>= _FRACTION_BITS
        encoded[:, :4] = scales.astype("<f4", copy=False).view(np.uint8)
        np.copyto(encoded[:, 4:].view(np.int8), whole, casting="unsafe")


def _decode(encoded: NDArray[np.uint8], rows: NDArray[np.float32]) -> None:
    """Decode (n_blocks, 4 + n) uint8 into (n_blocks, n) float32."""
    np.copyto(rows, encoded[:, 4:].view(np.int8))
    scales = np.ascontiguousarray(encoded[:, :4]).view("<f4").astype(np.float32, copy=False)  # (n_blocks, 1)
    with np.errstate(all="ignore"):  # a foreign scale may be anything; admission sees what comes of it
        rows *= scales


INT8: Codec = _Int8()
