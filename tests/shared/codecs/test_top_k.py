import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from shared.codecs import BLOCK_PARAMS, codec_named, decode_vector
from shared.errors import PeerError, Reason
from shared.parameters import Vector

TOP = codec_named("top-1-percent")
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st_numpy.arrays(np.float32, st.integers(1, 600), elements=finite, fill=finite)


def decoded(vector: Vector) -> Vector:
    """Return what arrives."""
    return decode_vector(TOP, TOP.encode(vector, 1), len(vector))


def written(scale: float, groups: list[tuple[list[int], list[float]]]) -> bytes:
    """Write an update by hand: each group's places and values."""
    counts = np.array([len(places) for places, _ in groups], "<u2")
    parts = [np.array(places, "<u2").tobytes() + np.array(values, "<f2").tobytes() for places, values in groups]
    return np.array(scale, "<f4").tobytes() + counts.tobytes() + b"".join(parts)


@given(vectors)
@example(np.array([3.4e38, -3.4e38, 1e30, 1e-45], np.float32))
@example(np.full(250, 1e-45, np.float32))
@example(np.repeat(np.array([1, -1, 2], np.float32), 100))
def test_the_largest_arrive_as_stated_and_the_others_as_zeros(vector: Vector) -> None:
    """That is n/100 rounded up; of magnitudes that are alike the first; each to 2^-11, or 2^-25 of the largest."""
    k = -(-len(vector) // 100)
    order = np.argsort(-np.abs(vector).astype(np.float64), kind="stable")
    got, exact = decoded(vector).astype(np.float64), vector.astype(np.float64)
    assert not got[order[k:]].any()
    bound = np.maximum(2**-11 * np.abs(exact), 2**-25 * np.abs(exact).max() + 2.0**-149) * (1 + 2**-10)
    assert (np.abs(got - exact) <= bound)[order[:k]].all()
    assert got[order[0]] == exact[order[0]]


@given(vectors)
def test_it_contracts(vector: Vector) -> None:
    """‖C(x) - x‖² <= (1 - k/n + 2^-22) ‖x‖²: what feedback needs of a codec to converge."""
    x = vector.astype(np.float64)
    k = -(-len(x) // 100)
    squares = x @ x
    assert ((decoded(vector) - x) ** 2).sum() <= (1 - k / len(x) + 2**-21) * squares + 1e-80


def test_bytes_by_hand() -> None:
    """201 values have three: scale 4, places 0, 7 and 200, halves 0.25, -1 and 0.5 of it."""
    vector = np.zeros(201, np.float32)
    vector[[0, 7, 200]] = [1, -4, 2]
    data = bytes.fromhex("00008040030000000700c800003400bc0038")
    assert TOP.encode(vector, 1) == data == written(4, [([0, 7, 200], [0.25, -1, 0.5])])
    assert decode_vector(TOP, data, 201).tolist() == vector.tolist()


def test_all_values_may_lie_in_one_group() -> None:
    """And the groups before and after it are empty."""
    n = 3 * BLOCK_PARAMS
    vector = np.zeros(n, np.float32)
    vector[BLOCK_PARAMS : 2 * BLOCK_PARAMS] = np.random.default_rng(1).standard_normal(BLOCK_PARAMS)
    got = decoded(vector)
    assert np.count_nonzero(got) == -(-n // 100)
    places = np.flatnonzero(got)
    np.testing.assert_allclose(got[places], vector[places], rtol=2**-11)


def test_it_is_a_hundredth_of_float32() -> None:
    """Four bytes a value that is sent, two a group, four for the scale."""
    assert TOP.encoded_bytes(4_194_304) == 4 + 2 * 128 + 4 * 41_944
    assert TOP.encoded_bytes(1) == 4 + 2 + 4


ONE_GROUP = {
    "a place twice": written(1, [([5, 5, 9], [1, 1, 1])]),
    "places that fall": written(1, [([9, 5, 12], [1, 1, 1])]),
    "a place behind the end": written(1, [([5, 9, 201], [1, 1, 1])]),
    "a place far behind the end": written(1, [([5, 9, 65_535], [1, 1, 1])]),
    "a value too few by its count": written(1, [([5, 9], [1, 1])]) + bytes(4),
    "a value too many by its count": written(1, [([5, 9, 10, 11], [1, 1, 1, 1])])[:18],
}


@pytest.mark.parametrize("what", ONE_GROUP)
def test_an_update_that_no_encoder_makes_is_refused(what: str) -> None:
    """201 values, of which three are sent: whatever else the right number of bytes says."""
    data = ONE_GROUP[what]
    assert len(data) == TOP.encoded_bytes(201)
    with pytest.raises(PeerError) as caught:
        decode_vector(TOP, data, 201)
    assert caught.value.reason is Reason.CODEC


def test_counts_are_held_to_their_sum_and_to_their_group() -> None:
    """A group may not borrow places from the next: those of the second lie below 32,768, and the last is shorter."""
    n = BLOCK_PARAMS + 100  # 329 values
    first = list(range(328))
    sound = written(1, [(first, [1.0] * 328), ([99], [1.0])])
    assert decode_vector(TOP, sound, n)[[0, 327, 328, BLOCK_PARAMS + 99]].tolist() == [1, 1, 0, 1]
    for bad in (
        written(1, [(first, [1.0] * 328), ([100], [1.0])]),
        written(1, [([*range(1, 328), BLOCK_PARAMS], [1.0] * 328), ([99], [1.0])]),
        written(1, [(first, [1.0] * 328), ([99], [1.0])])[:4] + bytes.fromhex("ffff4a01") + sound[8:],
    ):
        assert len(bad) == len(sound)
        with pytest.raises(PeerError) as caught:
            decode_vector(TOP, bad, n)
        assert caught.value.reason is Reason.CODEC


@pytest.mark.parametrize(("scale", "half"), [(np.nan, 1), (np.inf, 0), (1, np.nan), (3e38, 65504)])
def test_numbers_that_are_none_come_out(scale: float, half: float) -> None:
    """For admission to see, without a warning."""
    assert not np.isfinite(decode_vector(TOP, written(scale, [([0], [half])]), 1)).any()


def test_zeros_are_the_first_places() -> None:
    """There are k places even where nothing is worth one."""
    assert TOP.encode(np.zeros(201, np.float32), 1) == written(0, [([0, 1, 2], [0, 0, 0])])
