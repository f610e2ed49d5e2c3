import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.codecs import BLOCK_PARAMS, codec_named, decode_vector
from shared.codecs.lossless import INT8_ZSTD
from shared.errors import PeerError, Reason
from shared.parameters import Vector

zstandard = pytest.importorskip("zstandard")
INT8 = codec_named("int8")
N = 3 * BLOCK_PARAMS + 17


def heavy_tailed(n: int = N) -> Vector:
    """Return a vector that packs to about 80 %."""
    return np.random.default_rng(1).standard_t(3, n).astype(np.float32)


def packed(plain: bytes, **parameters: int) -> bytes:
    """Pack as another sender might."""
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(compression_level=1, **parameters)
    ).compressobj()
    frame: bytes = compressor.compress(plain) + compressor.flush()
    return frame


def refused(data: bytes, n_params: int = N) -> Reason:
    """Return what for."""
    with pytest.raises(PeerError) as caught:
        decode_vector(INT8_ZSTD, data, n_params)
    return caught.value.reason


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_it_decodes_to_what_int8_does(n_params: int, seed: int) -> None:
    """To the bit, of vectors that pack well and of such that do not at all; never longer."""
    rng = np.random.default_rng(seed)
    vector = rng.standard_normal(n_params, dtype=np.float32) * (rng.random(n_params) < rng.random())
    data = INT8_ZSTD.encode(vector.astype(np.float32), seed)
    assert len(data) <= INT8_ZSTD.encoded_bytes(n_params) == INT8.encoded_bytes(n_params)
    plain = decode_vector(INT8, INT8.encode(vector.astype(np.float32), seed), n_params)
    np.testing.assert_array_equal(decode_vector(INT8_ZSTD, data, n_params), plain)


def test_it_pays_where_it_is_said_to() -> None:
    """Of normally distributed values 94 % are left, of embeddings of which 7 % were trained 8 %."""
    rng = np.random.default_rng(2)
    normal = rng.standard_normal(200_000, dtype=np.float32)
    rows = np.zeros((5_000, 64), np.float32)
    rows[rng.choice(5_000, 350, replace=False)] = rng.standard_normal((350, 64))
    for vector, share in ((normal, 0.94), (rows.reshape(-1), 0.08)):
        assert len(INT8_ZSTD.encode(vector, 1)) / INT8.encoded_bytes(len(vector)) == pytest.approx(share, abs=0.01)


def test_what_would_not_become_shorter_goes_as_it_is() -> None:
    """Its length says so: one value is five bytes, and as many packed would be more."""
    assert INT8_ZSTD.encode(np.ones(1, np.float32), 1) == INT8.encode(np.ones(1, np.float32), 1)


@pytest.mark.parametrize("parameters", [{}, {"write_checksum": 1}, {"window_log": 23}, {"write_content_size": 0}])
def test_whatever_frame_holds_the_bytes_is_read(parameters: dict[str, int]) -> None:
    """With a checksum or none, with its length or none, at the largest window allowed."""
    plain = INT8.encode(heavy_tailed(), 1)
    frame = packed(plain, **parameters)
    np.testing.assert_array_equal(decode_vector(INT8_ZSTD, frame, N), decode_vector(INT8, plain, N))


def test_a_frame_that_is_not_one_of_int8_is_refused() -> None:
    """Cut, prolonged, doubled, of other bytes, no frame at all, wanting too large a window: each by name."""
    plain = INT8.encode(heavy_tailed(), 1)
    frame = packed(plain)
    bad = {
        "cut by one": frame[:-1],
        "cut in half": frame[: len(frame) // 2],
        "a byte behind it": frame + b"\0",
        "another frame behind it": frame + packed(b""),
        "a skippable frame before it": bytes.fromhex("502a4d1804000000") + bytes(4) + frame,
        "a byte more in it": packed(plain + b"\0"),
        "a byte less in it": packed(plain[:-1]),
        "nothing in it": packed(b""),
        "no frame": b"int8, but not packed",
        "a window of 16 MiB": packed(plain, window_log=24),
    }
    assert {what: refused(data) for what, data in bad.items()} == dict.fromkeys(bad, Reason.CODEC)


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_frame_with_bytes_changed_gives_numbers_or_a_refusal(seed: int, n_changes: int) -> None:
    """And no other error."""
    rng = np.random.default_rng(seed)
    frame = bytearray(packed(INT8.encode(heavy_tailed(2000), 1)))
    for at in rng.integers(0, len(frame), n_changes):
        frame[at] = rng.integers(256)
    try:
        reason = None
        vector = decode_vector(INT8_ZSTD, bytes(frame), 2000)
    except PeerError as error:
        reason = error.reason
    assert reason is Reason.CODEC if reason else vector.shape == (2000,)


def test_a_bomb_is_refused_without_room_for_it() -> None:
    """By hand: 20,000 blocks of 128 KiB, four bytes each, would be 2.4 GiB. 1 MiB is over the mark of 100 kB."""
    block = (131_072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"  # not the last, of one byte repeated
    bomb = bytes.fromhex("28b52ffd0058") + 20_000 * block
    assert len(bomb) < INT8.encoded_bytes(N)
    tracemalloc.start()
    try:
        assert refused(bomb) is Reason.CODEC
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_an_honest_update_is_unpacked_as_it_is_read() -> None:
    """A million values take a block and what is fed ahead, not the megabyte that they unpack to."""
    n = 2**20
    data = INT8_ZSTD.encode(heavy_tailed(n), 1)
    tracemalloc.start()
    try:
        for _ in INT8_ZSTD.blocks(data, n):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2**19 + 2**18
    finally:
        tracemalloc.stop()
