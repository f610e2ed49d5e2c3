import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codecs import CODECS, codec_named, decode_vector
from shared.codecs.feedback import encode_with_feedback
from shared.errors import PeerError, Reason
from shared.parameters import Vector

TOP = codec_named("top-1-percent")


def deltas(n_rounds: int, n_params: int, seed: int) -> Vector:
    """Return (n_rounds, n_params) float32."""
    return np.random.default_rng(seed).standard_normal((n_rounds, n_params), dtype=np.float32)


@given(st.integers(1, 30), st.integers(1, 400), st.integers(0, 2**32))
def test_what_was_sent_and_what_is_kept_add_up_to_all_deltas(n_rounds: int, n_params: int, seed: int) -> None:
    """The sums telescope: nothing is lost, it only comes later."""
    made = deltas(n_rounds, n_params, seed)
    residual: Vector | None = None
    total = np.zeros(n_params)
    for delta in made:
        payload, residual = encode_with_feedback(TOP, delta, residual, 1)
        total += decode_vector(TOP, payload, n_params)
    assert residual is not None
    np.testing.assert_allclose(total + residual, made.astype(np.float64).sum(axis=0), atol=1e-5 * n_rounds)


def test_a_value_that_is_never_the_largest_arrives_in_the_end() -> None:
    """100 values, one place: 1 and 0.1 again and again. Without feedback the second is never sent."""
    delta = np.zeros(100, np.float32)
    delta[:2] = [1, 0.1]
    residual: Vector | None = None
    sent = np.zeros((100, 100))
    for row in sent:
        payload, residual = encode_with_feedback(TOP, delta, residual, 1)
        row[:] = decode_vector(TOP, payload, 100)
    assert not decode_vector(TOP, TOP.encode(delta, 1), 100)[1]
    np.testing.assert_allclose(sent.sum(axis=0)[:2], [100, 10], atol=2)


def test_a_quadratic_is_learned_with_feedback_and_not_without() -> None:
    """Two devices whose largest distances cancel: top_1 alone sends nothing but these, and stops where it began.

    f(w) = mean over devices of |w - target|²/2 with 100 values, by 1,000 rounds at a rate of 0.01.
    """
    targets = np.random.default_rng(3).standard_normal((2, 100))
    targets[:, 0] += [10, -10]
    best = targets.mean(axis=0)

    def distance(with_feedback: bool) -> float:
        w = np.zeros(100)
        kept: list[Vector | None] = [None, None]
        for _ in range(1000):
            sent = np.zeros(100)
            for i, target in enumerate(targets):
                delta = (0.01 * (target - w)).astype(np.float32)
                payload, kept[i] = encode_with_feedback(TOP, delta, kept[i] if with_feedback else None, 1)
                sent += decode_vector(TOP, payload, 100)
            w += sent / 2
        return float(np.linalg.norm(w - best) / np.linalg.norm(best))

    assert distance(with_feedback=False) > 0.95
    assert distance(with_feedback=True) < 0.3


@pytest.mark.parametrize("name", [name for name in CODECS if name != "top-1-percent"])
def test_a_codec_without_need_keeps_nothing_and_sends_what_another_left(name: str) -> None:
    """A run may change its codec: what top-k had left out goes out with the next update, once."""
    codec = codec_named(name)
    delta, residual = deltas(2, 50, 1)
    assert not codec.needs_feedback
    assert encode_with_feedback(codec, delta, residual, 5) == (codec.encode(delta + residual, 5), None)
    assert encode_with_feedback(codec, delta, None, 5) == (codec.encode(delta, 5), None)


def test_nothing_given_is_changed() -> None:
    """A rollback is to forget what was returned."""
    delta, residual = deltas(2, 300, 2)
    before = delta.copy(), residual.copy()
    encode_with_feedback(TOP, delta, residual, 1)
    assert (delta == before[0]).all()
    assert (residual == before[1]).all()


def test_sums_that_overflow_are_refused() -> None:
    """Rather than to send what the aggregator would refuse."""
    huge = np.full(3, 3e38, np.float32)
    with pytest.raises(PeerError) as caught:
        encode_with_feedback(TOP, huge, huge, 1)
    assert caught.value.reason is Reason.NOT_FINITE
