"""What holds for every codec there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from shared.codecs import BLOCK_PARAMS, CODECS, codec_named, decode_vector
from shared.errors import PeerError, Reason
from shared.parameters import Vector

SIZES = (1, 2, 255, 256, 257, 4095, 4097, BLOCK_PARAMS - 1, BLOCK_PARAMS, BLOCK_PARAMS + 1, 2 * BLOCK_PARAMS + 17)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st_numpy.arrays(np.float32, st.integers(1, 600), elements=finite, fill=finite)


class Pages:
    """Bytes as a file gives them: each range in a buffer that the next one overwrites."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._window = bytearray(len(data))

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice) -> memoryview:
        piece = self._data[part]
        self._window[:] = b"\xff" * len(self._window)
        self._window[: len(piece)] = piece
        return memoryview(self._window)[: len(piece)]


def an_update(n_params: int, seed: int = 1) -> Vector:
    """Return a random delta."""
    return np.random.default_rng(seed).standard_normal(n_params, dtype=np.float32)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("n_params", SIZES)
def test_blocks_lie_at_multiples_of_the_block_size_and_make_up_the_vector(name: str, n_params: int) -> None:
    """Updates of any codecs can be read side by side; reading from a file gives the same, in O(block) memory."""
    codec = codec_named(name)
    data = codec.encode(an_update(n_params), 7)
    whole = decode_vector(codec, data, n_params)
    starts = []
    for start, block in codec.blocks(Pages(data), n_params):
        starts.append(start)
        assert (block.dtype.name, len(block)) == ("float32", min(BLOCK_PARAMS, n_params - start))
        np.testing.assert_array_equal(block, whole[start : start + len(block)])
    assert starts == list(range(0, n_params, BLOCK_PARAMS))


@pytest.mark.parametrize("name", CODECS)
def test_two_vectors_are_read_in_step(name: str) -> None:
    """Every reading has buffers of its own."""
    codec, n_params = codec_named(name), 2 * BLOCK_PARAMS + 17
    encoded = [codec.encode(an_update(n_params, seed), 7) for seed in (1, 2)]
    wholes = [decode_vector(codec, data, n_params) for data in encoded]
    for (start, one), (_, other) in zip(*(codec.blocks(data, n_params) for data in encoded), strict=True):
        for block, whole in ((one, wholes[0]), (other, wholes[1])):
            np.testing.assert_array_equal(block, whole[start : start + len(block)])


@pytest.mark.parametrize("name", CODECS)
@given(vector=vectors)
def test_what_is_encoded_has_the_length_foretold_and_decodes_to_finite_numbers(name: str, vector: Vector) -> None:
    """Zeros, subnormals and the largest float32 too; the receiver computes the length from its own spec."""
    codec = codec_named(name)
    data = codec.encode(vector, 1)
    assert len(data) == codec.encoded_bytes(len(vector)) or not codec.has_fixed_length
    assert len(data) <= codec.encoded_bytes(len(vector))
    assert np.isfinite(decode_vector(codec, data, len(vector))).all()
    assert codec.name == name


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("n_params", [1, 300, 5000])
def test_zeros_stay_zeros(name: str, n_params: int) -> None:
    """A layer that is not trained does not move."""
    codec = codec_named(name)
    assert not decode_vector(codec, codec.encode(np.zeros(n_params, np.float32), 1), n_params).any()


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_another_length_is_refused(name: str, data: st.DataObject) -> None:
    """A byte less, a byte more, much more, nothing: before anything is decoded."""
    codec = codec_named(name)
    n_params = data.draw(st.integers(1, 600))
    right = codec.encoded_bytes(n_params)
    wrong = data.draw(st.sampled_from([0, right - 1, right + 1, 2 * right, right + 100]).filter(lambda n: n != right))
    with pytest.raises(PeerError) as caught:
        decode_vector(codec, bytes(wrong), n_params)
    is_a_length = not codec.has_fixed_length and 0 < wrong < right
    assert caught.value.reason is (Reason.CODEC if is_a_length else Reason.LENGTH)


@pytest.mark.parametrize("name", CODECS)
@given(n_params=st.integers(1, 600), seed=st.integers(0, 2**32))
def test_foreign_bytes_give_numbers_or_a_refusal(name: str, n_params: int, seed: int) -> None:
    """No warning, no other error, whatever a device sends in the right length; NaN and Inf come out as they are."""
    codec = codec_named(name)
    data = np.random.default_rng(seed).bytes(codec.encoded_bytes(n_params))
    try:
        vector = decode_vector(codec, data, n_params)
    except PeerError:
        return
    assert (vector.dtype.name, vector.shape) == ("float32", (n_params,))


@pytest.mark.parametrize("name", CODECS)
def test_encoding_leaves_the_vector_alone_and_takes_one_that_cannot_be_written(name: str) -> None:
    """The caller's array is not clipped in place."""
    vector = np.array([1e9, 1.5], dtype=np.float32)
    vector.flags.writeable = False
    codec_named(name).encode(vector, 1)
    assert vector.tolist() == [1e9, 1.5]


@pytest.mark.parametrize("name", CODECS)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    """An update that is made again is the same update."""
    codec, vector = codec_named(name), an_update(BLOCK_PARAMS + 300)
    assert codec.encode(vector, 3) == codec.encode(vector.copy(), 3)
