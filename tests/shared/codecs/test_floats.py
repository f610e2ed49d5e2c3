import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from shared.codecs import codec_named, decode_vector
from shared.parameters import Vector

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st_numpy.arrays(np.float32, st.integers(1, 50), elements=finite)


@given(vectors)
def test_float32_is_exact_to_the_bit(vector: Vector) -> None:
    """Subnormals and the sign of zero too."""
    codec = codec_named("float32")
    assert decode_vector(codec, codec.encode(vector, 1), len(vector)).tobytes() == vector.tobytes()


@given(vectors)
def test_float16_keeps_its_error_bound(vector: Vector) -> None:
    """Relative 2^-11 from 6.1e-5 on, absolute 2^-25 below, and clipped to 65504 above."""
    codec = codec_named("float16")
    decoded = decode_vector(codec, codec.encode(vector, 1), len(vector)).astype(np.float64)
    clipped = np.clip(vector.astype(np.float64), -65504, 65504)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - clipped) <= np.maximum(np.abs(clipped) * 2**-11, 2**-25)).all()


def test_float16_by_hand() -> None:
    """1 + 2^-11 lies half-way and goes to the even 1; 1e9 is clipped; 2^-24 is the smallest."""
    codec = codec_named("float16")
    vector = np.array([1 + 2**-11, 1e9, -1e9, 2**-24, 0], dtype=np.float32)
    assert codec.encode(vector, 1).hex() == "003cff7bfffb01000000"
    assert decode_vector(codec, codec.encode(vector, 1), 5).tolist() == [1, 65504, -65504, 2**-24, 0]


@pytest.mark.parametrize(("name", "bits"), [("float32", "0000c07f"), ("float16", "007e"), ("float16", "017d")])
def test_foreign_nan_comes_out_and_is_not_hidden(name: str, bits: str) -> None:
    """Admission looks for it; a codec does not make numbers of it, nor warns of a signalling one."""
    assert np.isnan(decode_vector(codec_named(name), bytes.fromhex(bits), 1)).all()
