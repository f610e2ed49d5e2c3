import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from shared.codecs import codec_named, decode_vector
from shared.codecs.int8 import Rounding
from shared.parameters import Vector

INT8 = codec_named("int8")
ROUNDING = 2.0**-14  # of the scale: what float32 adds
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st_numpy.arrays(np.float32, st.integers(1, 600), elements=finite, fill=finite)


def decoded(vector: Vector, seed: int = 1) -> Vector:
    """Return what arrives."""
    return decode_vector(INT8, INT8.encode(vector, seed), len(vector))


def scales(vector: Vector) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return the scale of each value's block as the docstring states it: (n_params,) float64."""
    found = np.empty(len(vector))
    for start in range(0, len(vector), 256):
        peak = min(float(np.abs(vector[start : start + 256]).max()), 3e38)
        found[start : start + 256] = max(peak / 126.75, 2.0**-110)
    return found


@given(vectors, st.integers(0, 2**63 - 1))
@example(np.array([3.4e38, -3.4e38, 1e30, 1e-30, 1e-45], np.float32), 0)
@example(np.array([1e-45, -1e-45, 0], np.float32), 0)
@example(np.full(300, -3e38, np.float32), 0)
@example(np.linspace(-1e30, 1e30, 700, dtype=np.float32), 0)
def test_no_value_is_off_by_more_than_the_scale_of_its_block(vector: Vector, seed: int) -> None:
    """The scale is 1/126.75 of the block's largest magnitude, at least 2^-110; larger values are clipped to 3e38."""
    error = np.abs(decoded(vector, seed).astype(np.float64) - np.clip(vector.astype(np.float64), -3e38, 3e38))
    assert (error <= scales(vector) * (1 + ROUNDING)).all()


@pytest.mark.parametrize("where", [0.0, 0.001, 0.25, 0.5, 0.93, 41.37, -0.001, -0.75, -126.4])
def test_the_mean_is_the_value_itself(where: float) -> None:
    """Between two whole numbers, k and k + 1, the upper one comes with probability x - k: to five standard errors.

    510,000 values in 2,000 blocks, whose first value alone fixes the scale at 1.
    """
    rows = np.full((2_000, 256), where, np.float32)
    rows[:, 0] = 126.75
    got = decoded(rows.reshape(-1)).reshape(rows.shape)[:, 1:].astype(np.float64)
    probability = where - np.floor(where)
    standard_error = np.sqrt(probability * (1 - probability) / got.size)
    assert set(np.unique(got)) <= {np.floor(where), np.floor(where) + 1}
    assert abs(got.mean() - np.float32(where)) <= 5 * standard_error + ROUNDING


@pytest.mark.parametrize(("value", "n_up"), [(0.25, 2**14), (-0.25, 3 * 2**14), (0.5, 2**15), (2.0**-16, 1), (0, 0)])
def test_of_all_dithers_as_many_round_up_as_should(value: float, n_up: int) -> None:
    """The chance is right to 2^-16, which no number of draws would show: each of the 2^16 dithers is tried once."""
    rounding = Rounding()
    n_found = 0
    for dithers in np.arange(2**16, dtype=np.uint16).reshape(-1, 128):
        row = np.full((1, 129), value, np.float32)
        row[0, 0] = 126.75  # the scale is 1
        encoded = np.empty((1, 133), np.uint8)
        rounding.encode(row, np.concatenate([[0], dithers]).astype(np.uint16), encoded)
        n_found += int((encoded[0, 5:].view(np.int8) - np.floor(value)).sum())
    assert n_found == n_up


def test_many_devices_average_it_out() -> None:
    """The error of a mean of 20 is a twentieth of one's, as independent and unbiased errors are: to a fifth."""
    vector = np.random.default_rng(1).standard_normal(50_000, dtype=np.float32)
    errors = np.array([decoded(vector, seed).astype(np.float64) - vector for seed in range(20)])
    one, mean = (errors**2).sum(axis=1).mean(), (errors.mean(axis=0) ** 2).sum()
    assert one / (vector.astype(np.float64) ** 2).sum() < 1.5e-4
    assert mean == pytest.approx(one / 20, rel=0.2)


def test_bytes_by_hand() -> None:
    """A block of 256 and one of 2: scale 0.5 (3f000000) and values 1, -2, 127, -127, 0 ...; scale -2 and 3, -128."""
    first = bytes.fromhex("0000003f") + np.array([1, -2, 127, -127, *[0] * 252], np.int8).tobytes()
    second = bytes.fromhex("000000c0") + np.array([3, -128], np.int8).tobytes()
    assert INT8.encoded_bytes(258) == len(first + second) == 266
    values = decode_vector(INT8, first + second, 258)
    assert values[:5].tolist() == [0.5, -1, 63.5, -63.5, 0]
    assert not values[5:256].any()
    assert values[256:].tolist() == [-6, 256]


def test_a_large_value_coarsens_its_own_block_alone() -> None:
    """One scale for 256 values, and it is written in front of them."""
    vector = np.full(768, 1e-3, np.float32)
    vector[300] = 1e6
    got = decoded(vector)
    assert np.abs(np.delete(got, slice(256, 512)) - 1e-3).max() <= 1e-3 / 126
    encoded = np.frombuffer(INT8.encode(vector, 1), np.uint8).reshape(3, 260)
    np.testing.assert_allclose(encoded[:, :4].copy().view("<f4")[:, 0], [1e-3 / 126.75, 1e6 / 126.75, 1e-3 / 126.75])


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_number_makes_none(scale: float) -> None:
    """NaN and Inf come out for admission to see, without a warning, even where they meet a zero."""
    data = np.array([scale], "<f4").tobytes() + np.array([1, 0, -1], np.int8).tobytes()
    assert not np.isfinite(decode_vector(INT8, data, 3)).any()


def test_other_seeds_round_otherwise() -> None:
    """Devices of one round must not all round the same way."""
    vector = np.linspace(-1, 1, 1000, dtype=np.float32)
    assert len({INT8.encode(vector, seed) for seed in range(10)}) == 10


@pytest.mark.parametrize("n_params", [1, 255, 256, 257, 65_536, 65_537, 200_000])
def test_pieces_join_at_any_length(n_params: int) -> None:
    """What is encoded piece by piece covers every value once."""
    vector = np.random.default_rng(2).standard_normal(n_params, dtype=np.float32)
    error = np.abs(decoded(vector).astype(np.float64) - vector)
    assert (error <= scales(vector) * (1 + ROUNDING)).all()
