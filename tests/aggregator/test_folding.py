"""Updates are decoded, checked and folded block by block."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.folding import fold, verify
from aggregator.rules import BLOCK_PARAMS, Mean
from shared.codecs import CODECS, decode_vector
from shared.errors import PeerError, Reason

MORE_THAN_TWO_BLOCKS = 2 * BLOCK_PARAMS + 17


def an_update(n_params: int = MORE_THAN_TWO_BLOCKS, seed: int = 1) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """Return a random delta."""
    return np.random.default_rng(seed).standard_normal(n_params, dtype=np.float32)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_verify_returns_the_norm(name: str) -> None:
    """The norm is that of what will be folded."""
    codec = CODECS[name]
    update = an_update()
    expected = np.linalg.norm(decode_vector(codec, codec.encode(update, 0), len(update)).astype(np.float64))
    assert verify(codec, codec.encode(update, 0), len(update)) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, MORE_THAN_TWO_BLOCKS - 1), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_verify_with_one_value_that_is_not_finite_refuses(where: int, value: float) -> None:
    """NaN or Inf anywhere is found."""
    update = an_update()
    update[where] = value
    with pytest.raises(PeerError) as refused:
        verify(CODECS["float32"], update.tobytes(), len(update))
    assert refused.value.reason is Reason.NOT_FINITE


def test_verify_with_a_signalling_nan_refuses_and_warns_of_nothing() -> None:
    """Random bytes hold NaNs that complain when they are widened."""
    data = np.array([0x7F800001, 0xFF800001], dtype="<u4").tobytes()
    with pytest.raises(PeerError) as refused:
        verify(CODECS["float32"], data, 2)
    assert refused.value.reason is Reason.NOT_FINITE


def test_verify_with_huge_but_finite_values_accepts() -> None:
    """A square that overflows float32 is no reason to refuse."""
    update = np.full(3, 3e38, dtype=np.float32)
    assert verify(CODECS["float32"], update.tobytes(), 3) == pytest.approx(3e38 * np.sqrt(3), rel=1e-6)


def test_verify_over_the_norm_bound_refuses() -> None:
    """3-4-5: norm 5 passes a bound of 5 and fails one of 4.99."""
    data = np.array([3, 4], dtype=np.float32).tobytes()
    assert verify(CODECS["float32"], data, 2, max_norm=5.0) == 5.0
    with pytest.raises(PeerError) as refused:
        verify(CODECS["float32"], data, 2, max_norm=4.99)
    assert refused.value.reason is Reason.NORM


@pytest.mark.parametrize("n_bytes", [0, 1, 7, 9, 12])
def test_verify_with_a_length_that_is_not_the_models_refuses(n_bytes: int) -> None:
    """The number of parameters is the run's own: other lengths are refused before anything is decoded."""
    with pytest.raises(PeerError) as refused:
        verify(CODECS["float32"], bytes(n_bytes), 2)
    assert refused.value.reason is Reason.LENGTH


def test_fold_adds_weight_times_scale_times_update() -> None:
    """The sum is that of the whole vectors, to the bit, and it reads memory that cannot be written."""
    codec, rule = CODECS["float32"], Mean()
    first, second = an_update(seed=1), an_update(seed=2)
    state = rule.init(len(first))
    fold(rule, state, codec, memoryview(codec.encode(first, 0)), weight=3.0)
    fold(rule, state, codec, codec.encode(second, 0), weight=2.0, scale=0.25)
    expected = first.astype(np.float64) * 3.0 + second.astype(np.float64) * 0.5
    assert state.total.tobytes() == expected.tobytes()
    assert (state.weight, state.n_updates) == (5.0, 2)
