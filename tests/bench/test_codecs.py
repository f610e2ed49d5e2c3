import numpy as np

from bench.codecs import measure
from shared.codecs import codec_named


def test_figures_are_those_of_the_codec() -> None:
    """Bytes as foretold, no error for float32, a small one for int8, and times that are not nothing."""
    update = np.random.default_rng(1).standard_normal(100_000, dtype=np.float32)
    exact, rounded = (measure(codec_named(name), update, tries=1) for name in ("float32", "int8"))
    assert (exact.n_bytes, exact.error) == (400_000, 0)
    assert (rounded.n_bytes, 5e-5 < rounded.error < 2e-4) == (codec_named("int8").encoded_bytes(100_000), True)
    assert min(rounded.encode_s, rounded.decode_s, rounded.blocks_s) > 0
