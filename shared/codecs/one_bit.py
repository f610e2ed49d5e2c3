"""One bit a value: the signs of a rotated vector, and a scale. A thirtieth of the bytes, and nearly unbiased.

Vargaftik, Ben-Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher, "DRIVE: One-bit Distributed Mean Estimation"
(NeurIPS 2021, arXiv 2105.08339): of a block x, the signs of R x for a rotation R that a seed names, and the scale
S = |x|² / |R x|₁ of its unbiased form: S Rᵀ sign(R x) has the mean x over uniformly random rotations. At one bit
this is EDEN, too: the same authors, "EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated
Learning" (ICML 2022, arXiv 2108.08842). Differs: blocks of 4096 are rotated by themselves (`rotation.py`), so that each
part of a model has a scale of its own, and rotating stays in a core's cache.

Choose it for links so thin that nothing else gets through, and rounds of 20 devices or more: one update alone is noise
of 3/4 of its norm, which averages out over the devices of a round.

* The squared error of a block is π/2 - 1 = 0.57 of its squared norm on average, and its decoded norm is √(π/2) = 1.25
  times its norm: a bound on norms must allow for that. The part along x itself is exact, but for values so small that
  float32 rounds them.
* The rotation has structure and is not uniformly random, so the mean over all seeds is only nearly x. In blocks of 4096
  of which many values count, it is off by less than 0.5 % of the block's norm, as far as can be measured. The worst
  that we know are blocks of d in which a few values of nearly the same magnitude are all there is: 1.2/√d of the norm,
  which is 1.9 % for 4096 and 7 % for 256, the smallest, which only the end of a vector has; there, 1 to 3 % are seen
  where values have two sizes.
* Magnitudes over 2^115 (4e34) are clipped. A block of zeros stays zeros.
* The same vector and seed give the same bytes, and the same bytes the same values, everywhere: every sum is exact. To
  that end a block is rounded to whole numbers of 2^-20 of its largest magnitude before it is rotated.
* Encoding takes 3 MiB beside its input and twice its output, decoding 1 MiB.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shared.codecs.codec import BLOCK_PARAMS, Blocks, Bytes, Codec, Readable, refuse_length
from shared.codecs.rotation import hadamard, signs, signs_of

__all__ = ["ONE_BIT"]

_LARGEST_BLOCK, _SMALLEST_BLOCK = 4096, 256
_SEED_BYTES, _SCALE_BYTES = 8, 4
_WHOLE = 2.0**20  # 4096 x 4096 of them are added up
_LARGEST = 2.0**115  # decoded, one value may be 4096 times as large


class _OneBit:
    """The seed, then block by block a float32 scale and the signs; see `docs/protocol.md`."""

    name = "one-bit"
    has_fixed_length = True
    needs_feedback = False

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        parts = [struct.pack("<Q", seed)]
        for index, start, n_blocks, size in _runs(0, len(vector)):
            values = vector[start : start + n_blocks * size]
            rows = np.zeros((n_blocks, size), np.float64)
            rows.reshape(-1)[: len(values)] = values
            parts.append(_encode(rows, *signs(seed, index, n_blocks, size)).tobytes())
        return b"".join(parts)

    def encoded_bytes(self, n_params: int) -> int:
        return _SEED_BYTES + _offset(n_params)

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        refuse_length(self, len(data), n_params)
        view = memoryview(data) if isinstance(data, Bytes) else data
        (seed,) = struct.unpack("<Q", view[:_SEED_BYTES])
        values = np.empty(min(BLOCK_PARAMS, n_params) + _LARGEST_BLOCK, np.float32)
        for start in range(0, n_params, BLOCK_PARAMS):
            stop = min(start + BLOCK_PARAMS, n_params)
            encoded = np.frombuffer(view[_SEED_BYTES + _offset(start) : _SEED_BYTES + _offset(stop)], np.uint8)
            for index, first, n_blocks, size in _runs(start, stop):
                n_bytes = n_blocks * (_SCALE_BYTES + size // 8)
                rows = _decode(encoded[:n_bytes].reshape(n_blocks, -1), *signs(seed, index, n_blocks, size))
                values[first - start : first - start + rows.size] = rows.reshape(-1)
                encoded = encoded[n_bytes:]
            yield start, values[: stop - start]


def _runs(start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield runs of blocks as (index of the first, its first value, n_blocks, size), BLOCK_PARAMS values at most.

    Blocks of 4096 while there are as many; the rest is rounded up to a multiple of 256, and has blocks of the powers of
    two that it is the sum of, the largest first.
    """
    n_full, rest = divmod(stop, _LARGEST_BLOCK)
    at_once = BLOCK_PARAMS // _LARGEST_BLOCK
    for index in range(start // _LARGEST_BLOCK, n_full, at_once):
        yield index, index * _LARGEST_BLOCK, min(at_once, n_full - index), _LARGEST_BLOCK
    rest = -(-rest // _SMALLEST_BLOCK) * _SMALLEST_BLOCK
    index, first = n_full, n_full * _LARGEST_BLOCK
    for size in (_LARGEST_BLOCK >> shift for shift in range(5)):
        if rest & size:
            yield index, first, 1, size
            index, first = index + 1, first + size


def _offset(n_params: int) -> int:
    """Return how many bytes the blocks of `n_params` have."""
    n_full, rest = divmod(n_params, _LARGEST_BLOCK)
    n_rest = -(-rest // _SMALLEST_BLOCK)
    return (
        n_full * (_SCALE_BYTES + _LARGEST_BLOCK // 8)
        + n_rest * _SMALLEST_BLOCK // 8
        + n_rest.bit_count() * _SCALE_BYTES
    )


def _encode(rows: NDArray[np.float64], first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Encode (n_blocks, d) float64, which is overwritten, into (n_blocks, 4 + d/8) uint8."""
    n_blocks, size = rows.shape
    encoded = np.empty((n_blocks, _SCALE_BYTES + size // 8), np.uint8)
    np.clip(rows, -_LARGEST, _LARGEST, out=rows)
    peaks = np.abs(rows).max(axis=1, keepdims=True)  # (n_blocks, 1)
    rows *= np.divide(_WHOLE, peaks, out=np.zeros_like(peaks), where=peaks > 0)
    np.rint(rows, out=rows)
    squares = np.einsum("bd,bd->b", rows, rows)  # under 2^53, as all that follows
    rows *= first
    rotated = hadamard(rows)
    rotated *= second
    rotated = hadamard(rotated)  # d R x
    encoded[:, _SCALE_BYTES:] = np.packbits(rotated < 0, axis=1, bitorder="little")
    sums = np.abs(rotated, out=rotated).sum(axis=1)
    scales = np.divide(squares * size, sums, out=np.zeros(n_blocks), where=sums > 0)
    scales *= peaks[:, 0] / _WHOLE
    encoded[:, :_SCALE_BYTES] = scales.astype("<f4")[:, None].view(np.uint8)
    return encoded


def _decode(encoded: NDArray[np.uint8], first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decode (n_blocks, 4 + d/8) uint8 into (n_blocks, d) float32."""
    size = first.shape[1]
    rows = signs_of(encoded[:, _SCALE_BYTES:]).reshape(-1, size)
    rows = hadamard(rows)
    rows *= second
    rows = hadamard(rows, 1 / size)
    rows *= first
    scales = np.ascontiguousarray(encoded[:, :_SCALE_BYTES]).view("<f4").astype(np.float32, copy=False)  # (n_blocks, 1)
    with np.errstate(all="ignore"):  # a foreign scale may be anything; admission sees what comes of it
        rows *= scales
    return rows


ONE_BIT: Codec = _OneBit()
