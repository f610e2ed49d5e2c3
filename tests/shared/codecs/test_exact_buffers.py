import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.codecs import BLOCK_PARAMS, CODECS, codec_named, decode_vector
from shared.codecs.exact_buffers import ExactBuffers
from shared.errors import InvalidState, PeerError, Reason
from shared.parameters import ParameterSpec, Vector
from shared.task import Initial
from tests.shared.codecs.test_codec import Pages

LOSSY = [name for name in CODECS if name != "float32"]


def a_vector(n: int, seed: int = 1) -> Vector:
    """Return normally distributed values."""
    return np.random.default_rng(seed).standard_normal(n, dtype=np.float32)


def some(n: int, share: float, seed: int = 2) -> NDArray[np.bool_]:
    """Return which are buffers: that share, scattered."""
    mask: NDArray[np.bool_] = np.random.default_rng(seed).random(n) < share
    return mask


@pytest.mark.parametrize("name", LOSSY)
@given(n=st.integers(1, 700), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]), seed=st.integers(0, 2**32))
def test_buffers_arrive_to_the_bit_and_the_rest_as_if_it_were_all(name: str, n: int, share: float, seed: int) -> None:
    """Whatever lies where; a model of buffers alone, too."""
    codec, vector, is_buffer = CODECS[name], a_vector(n, seed), some(n, share, seed)
    both = ExactBuffers(codec, is_buffer)
    data = both.encode(vector, 7)
    got = decode_vector(both, data, n)
    assert len(data) == both.encoded_bytes(n) or not both.has_fixed_length
    assert got[is_buffer].tobytes() == vector[is_buffer].tobytes()
    others = vector[~is_buffer]
    if len(others):
        expected = decode_vector(codec, codec.encode(others, 7), len(others))
        np.testing.assert_array_equal(got[~is_buffer], expected)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("share", [0.001, 0.3])
def test_blocks_lie_where_those_of_every_codec_do(name: str, share: float) -> None:
    """And are read from a file as they are from memory."""
    n = 2 * BLOCK_PARAMS + 999
    both = ExactBuffers(CODECS[name], some(n, share))
    data = both.encode(a_vector(n), 7)
    whole = decode_vector(both, data, n)
    starts = []
    for start, block in both.blocks(Pages(data), n):
        starts.append(start)
        np.testing.assert_array_equal(block, whole[start : start + BLOCK_PARAMS])
    assert starts == [0, BLOCK_PARAMS, 2 * BLOCK_PARAMS]


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("wrong", [0, 1, 39, -1, 4])
def test_another_length_is_refused(name: str, wrong: int) -> None:
    """Nothing, less than the buffers alone, a byte less or more, a value more."""
    is_buffer = np.arange(50) % 5 == 0  # 10 buffers, 40 bytes
    both = ExactBuffers(CODECS[name], is_buffer)
    n_bytes = wrong if wrong in (0, 39) else both.encoded_bytes(50) + wrong
    with pytest.raises(PeerError) as caught:
        decode_vector(both, bytes(n_bytes), 50)
    assert caught.value.reason is Reason.LENGTH or (not both.has_fixed_length and wrong == -1)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("n_bytes", [1, 4, 100, 196, 199, 201, 204])
def test_another_length_of_buffers_alone_is_refused(name: str, n_bytes: int) -> None:
    """There is no codec behind which a shorter payload could be whole."""
    with pytest.raises(PeerError) as caught:
        decode_vector(ExactBuffers(CODECS[name], np.ones(50, np.bool_)), bytes(n_bytes), 50)
    assert caught.value.reason is Reason.LENGTH


def test_bytes_by_hand() -> None:
    """Values 1, 2 as float16, then the buffer 0.5 as float32, although it lies between them."""
    both = ExactBuffers(codec_named("float16"), np.array([False, True, False]))
    assert both.encode(np.array([1, 0.5, 2], np.float32), 0).hex() == "003c00400000003f"


def test_only_a_model_with_buffers_and_a_codec_that_rounds_need_it() -> None:
    """All others are encoded as they always were."""
    plain = ParameterSpec.of(Initial({"w": np.zeros(3, np.float32)}))
    normed = ParameterSpec.of(Initial({"w": np.zeros(3, np.float32), "mean": np.zeros(2)}, buffers=frozenset({"mean"})))
    assert codec_named("int8", plain) is codec_named("int8")
    assert codec_named("float32", normed) is codec_named("float32")
    assert codec_named("int8", normed).encoded_bytes(5) == 4 + 3 + 8
    assert normed.is_buffer.tolist() == [False] * 3 + [True] * 2


def test_the_codec_of_one_model_is_not_asked_about_another() -> None:
    """Our own mistake, not the peer's."""
    both = ExactBuffers(codec_named("int8"), np.array([True, False]))
    with pytest.raises(InvalidState):
        both.encoded_bytes(3)


def test_a_variance_stays_positive() -> None:
    """One large change beside it would have made it negative: int8 alone is off by 8 / 126.75 of a level here."""
    vector = np.full(256, -0.0099, np.float32)  # what a variance of 0.01 loses
    vector[0] = 8
    is_buffer = np.arange(256) < 128
    alone = np.array([decode_vector(CODECS["int8"], CODECS["int8"].encode(vector, seed), 256) for seed in range(20)])
    both = ExactBuffers(CODECS["int8"], is_buffer)
    together = np.array([decode_vector(both, both.encode(vector, seed), 256) for seed in range(20)])
    assert (0.01 + alone[:, 1:128]).min() < 0
    assert (0.01 + together[:, 1:128]).min() > 0
