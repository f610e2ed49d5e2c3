"""A rotation that a seed names: a vector's values are spread evenly before they are rounded coarsely.

R = H D2 H D1 / d, of Hadamard matrices H (Sylvester's, unnormalised, H[i, j] = (-1)^popcount(i & j)) and diagonals of
random signs D1 and D2. One such factor, H D1, is what Suresh, Yu, Kumar, McMahan, "Distributed Mean Estimation with
Limited Communication" (ICML 2017, arXiv 1611.00429), §3, rotates with. A vector of few values stays coarse after it:
two values come out as one of four numbers. So there are two, as in Yu, Suresh, Choromanski, Holtmann-Rice, Kumar,
"Orthogonal Random Features" (NIPS 2016, arXiv 1610.09072), §4, where three are advised.

A Hadamard matrix of d = a x b is applied as two matrices, of a and of b, which are multiplied by the library that NumPy
has for it. Its order of summation is its own. So all numbers are whole and below 2^53 (2^24 in float32), or those
times a power of two: every sum is exact, and the result is the same to the bit everywhere.
"""

import hashlib
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["hadamard", "signs"]

_Float = TypeVar("_Float", np.float32, np.float64)


def signs(seed: int, first: int, n_blocks: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the diagonals D1 and D2 of consecutive blocks: (n_blocks, size) float32 each, of 1 and -1.

    Those of block i are SHAKE-128 of seed and i, each as a little-endian uint64: size/8 bytes are D1's, size/8 D2's;
    the lowest bit of a byte comes first, and a bit that is set is -1.
    """
    key = seed.to_bytes(8, "little")
    blocks = range(first, first + n_blocks)
    drawn = b"".join(hashlib.shake_128(key + i.to_bytes(8, "little")).digest(size // 4) for i in blocks)
    both = signs_of(np.frombuffer(drawn, np.uint8)).reshape(n_blocks, 2, size)
    return both[:, 0], both[:, 1]


def signs_of(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return (n,) uint8 as (8 n,) float32 of 1 and -1: the lowest bit first, and -1 where it is set."""
    return np.take(_signs_of_bytes(), bits, axis=0, mode="clip").reshape(-1)


def hadamard(rows: NDArray[_Float], scale: float = 1.0) -> NDArray[_Float]:
    """Return every row times H, times `scale`.

    Args:
        rows: (n_rows, d), d a power of two.
        scale: a power of two, or rounding sets in.
    """
    n_rows, size = rows.shape
    right = 1 << (size.bit_length() // 2)
    blocks = rows.reshape(n_rows, size // right, right)
    left_matrix = _sylvester(size // right, rows.dtype) * rows.dtype.type(scale)
    # H is symmetric, and H of a x b is the Kronecker product of those of a and b
    product: NDArray[_Float] = np.matmul(left_matrix, np.matmul(blocks, _sylvester(right, rows.dtype)))
    return product.reshape(n_rows, size)


@cache
def _signs_of_bytes() -> NDArray[np.float32]:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")  # (256, 8)
    return 1 - 2 * bits.astype(np.float32)


@cache
def _sylvester(size: int, dtype: "np.dtype[_Float]") -> NDArray[_Float]:
    matrix = np.ones((1, 1), dtype)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.ascontiguousarray(matrix)
