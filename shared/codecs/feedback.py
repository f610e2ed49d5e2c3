"""Error feedback: what a codec leaves out is kept on the device, and added to the next update.

Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes" (ICML 2019,
arXiv 1901.09847), Algorithm 2: p = delta + e, sent is C(p), and e <- p - C(p). Here C(p) is what the other side
decodes, so that nothing is lost but to float32's own rounding: all that was sent and what is kept at last add up to all
deltas.

What is kept belongs to the update that it was computed with: it counts only once that update does, and is rolled back
otherwise, with the delta of that work. One that is kept for long is of a model that has moved on: Stich and Karimireddy
(arXiv 1909.05350) bound the harm by the delay.

Pure. Not here: where it is kept (`edge_client/local_state.py`).
"""

import numpy as np

from shared.codecs.codec import Codec, decode_vector
from shared.errors import PeerError, Reason
from shared.parameters import Vector

__all__ = ["encode_with_feedback"]


def encode_with_feedback(
    codec: Codec, delta: Vector, residual: Vector | None, seed: int
) -> tuple[bytes, Vector | None]:
    """Return an encoded update, and what is to be kept once it counts.

    A residual that another codec has left is sent as well as this one can, once.

    Args:
        codec: to encode with.
        delta: (n_params,) float32, finite.
        residual: what was kept since the last update that counts, (n_params,) float32; None: nothing.
        seed: of a codec that draws at random.

    Returns:
        The bytes, and (n_params,) float32; None: nothing is kept, of a codec that needs no feedback.

    Raises:
        PeerError: delta and residual together are no finite numbers any more (`not_finite`).
    """
    with np.errstate(over="ignore"):
        wanted = delta if residual is None else delta + residual
    if residual is not None and not np.isfinite(wanted).all():
        raise PeerError(Reason.NOT_FINITE, f"the update and what {codec.name} had left out are too large together")
    payload = codec.encode(wanted, seed)
    if not codec.needs_feedback:
        return payload, None
    return payload, wanted - decode_vector(codec, payload, len(wanted))
