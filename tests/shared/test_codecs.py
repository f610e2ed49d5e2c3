import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from shared.codecs import CODECS, codec_named
from shared.errors import ConfigError, PeerError, Reason
from shared.parameters import Vector

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st_numpy.arrays(np.float32, st.integers(1, 50), elements=finite)


@given(vectors)
def test_float32_is_exact_to_the_bit(vector: Vector) -> None:
    """Subnormals and the sign of zero too."""
    codec = codec_named("float32")
    assert codec.decode(codec.encode(vector, 1), len(vector)).tobytes() == vector.tobytes()


@given(vectors)
def test_float16_keeps_its_error_bound(vector: Vector) -> None:
    """Relative 2^-11 from 6.1e-5 on, absolute 2^-25 below, and clipped to 65504 above."""
    codec = codec_named("float16")
    decoded = codec.decode(codec.encode(vector, 1), len(vector)).astype(np.float64)
    clipped = np.clip(vector.astype(np.float64), -65504, 65504)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - clipped) <= np.maximum(np.abs(clipped) * 2**-11, 2**-25)).all()


def test_float16_by_hand() -> None:
    """1 + 2^-11 lies half-way and goes to the even 1; 1e9 is clipped; 2^-24 is the smallest."""
    codec = codec_named("float16")
    vector = np.array([1 + 2**-11, 1e9, -1e9, 2**-24, 0], dtype=np.float32)
    assert codec.encode(vector, 1).hex() == "003cff7bfffb01000000"
    assert codec.decode(codec.encode(vector, 1), 5).tolist() == [1, 65504, -65504, 2**-24, 0]


@pytest.mark.parametrize("name", CODECS)
@given(vector=vectors, data=st.data())
def test_blocks_decode_to_the_same_as_the_whole(name: str, vector: Vector, data: st.DataObject) -> None:
    """An update is folded from its file block by block: no value may depend on where it was cut."""
    codec = codec_named(name)
    encoded = codec.encode(vector, 1)
    whole = codec.decode(encoded, len(vector))
    start = data.draw(st.integers(0, len(vector)))
    stop = data.draw(st.integers(start, len(vector)))
    first, last = codec.block_range(start, stop)
    assert np.array_equal(codec.decode(memoryview(encoded)[first:last], stop - start), whole[start:stop])


@pytest.mark.parametrize("name", CODECS)
@given(vector=vectors)
def test_the_length_is_known_beforehand(name: str, vector: Vector) -> None:
    """The receiver computes it from its own spec."""
    codec = codec_named(name)
    assert len(codec.encode(vector, 1)) == codec.encoded_bytes(len(vector))
    assert codec.name == name


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("wrong", [-1, 1, 100])
def test_another_length_is_refused(name: str, wrong: int) -> None:
    """A byte less, a byte more, much more."""
    codec = codec_named(name)
    with pytest.raises(PeerError) as caught:
        codec.decode(bytes(codec.encoded_bytes(10) + wrong), 10)
    assert caught.value.reason is Reason.LENGTH


@pytest.mark.parametrize("name", CODECS)
def test_foreign_nan_comes_out_and_is_not_hidden(name: str) -> None:
    """Admission looks for it; a codec does not make numbers of it."""
    codec = codec_named(name)
    bits = {"float32": "0000c07f", "float16": "007e"}[name]
    assert np.isnan(codec.decode(bytes.fromhex(bits), 1)).all()


@pytest.mark.parametrize("name", CODECS)
def test_encoding_leaves_the_vector_alone(name: str) -> None:
    """The caller's array is not clipped in place."""
    vector = np.array([1e9, 1.5], dtype=np.float32)
    codec_named(name).encode(vector, 1)
    assert vector.tolist() == [1e9, 1.5]


def test_an_unknown_codec_is_named_with_those_there_are() -> None:
    """The operator sees what to choose from."""
    with pytest.raises(ConfigError, match="no codec 'int8'\n  there are: float32, float16"):
        codec_named("int8")
