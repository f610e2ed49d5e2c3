import hashlib
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.codecs.rotation import hadamard, signs, signs_of

SIZES = (256, 512, 1024, 2048, 4096)


@cache
def sylvester(size: int) -> NDArray[np.int64]:
    """Return H by its definition: H[i, j] = (-1)^popcount(i & j)."""
    parity = np.array([i.bit_count() % 2 for i in range(size)])
    index = np.arange(size)
    entries: NDArray[np.int64] = 1 - 2 * parity[index[:, None] & index]
    return entries


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hadamard_is_sylvesters_to_the_bit(size: int, dtype: type[np.float32] | type[np.float64]) -> None:
    """Against its definition in whole numbers."""
    rows = np.random.default_rng(1).integers(-(2**10), 2**10, (1, size))
    assert np.array_equal(hadamard(rows.astype(dtype)), rows @ sylvester(size))


@pytest.mark.parametrize("size", SIZES)
def test_twice_is_the_identity(size: int) -> None:
    """H H = d, so that 1/d of it is what was there: powers of two round nothing."""
    rows = np.random.default_rng(2).integers(-1, 2, (2, size)).astype(np.float32)
    assert np.array_equal(hadamard(hadamard(rows), 1 / size), rows)


def test_signs_are_shake_128_of_seed_and_index() -> None:
    """By hand: 512 bits for a block of 256, the lowest bit of a byte first."""
    first, second = signs(7, 5, 2, 256)
    drawn = hashlib.shake_128((7).to_bytes(8, "little") + (6).to_bytes(8, "little")).digest(64)
    bits = [byte >> i & 1 for byte in drawn for i in range(8)]
    assert [*first[1], *second[1]] == [1 - 2 * bit for bit in bits]


def test_signs_of_bits_by_hand() -> None:
    """0x01 has its lowest bit set, 0x80 its highest."""
    assert signs_of(np.array([0x01, 0x80], np.uint8)).tolist() == [-1, *[1] * 14, -1]


def test_the_numbers_stay_exact_at_their_largest() -> None:
    """Twice 4096 ones, rotated twice: 2^24 in float32, which one more would exceed."""
    ones = np.ones((1, 4096), np.float32)
    once = hadamard(ones)
    once[:] = once[0, 0]  # the worst that signs between the two can do
    assert (once[0, 0], hadamard(once)[0, 0]) == (2**12, 2**24)
