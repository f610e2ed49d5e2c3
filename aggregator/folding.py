"""An encoded update, block by block: is it believable in form, and into the sum with it.

An update is decoded 128 KiB at a time from memory or from its file, so that folding needs no memory of an
update's size, whatever its codec. Both functions take milliseconds a megabyte: run them off the event loop.

Not here: the sum itself (`rules/`), the order of folding (`round_machine.py`), the bytes on disk (`part_files.py`).
"""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aggregator.rules import AggregationRule, OpenRound
from shared.codecs import Bytes, Codec, Readable
from shared.errors import PeerError, Reason

__all__ = ["fold", "verify"]

S = TypeVar("S", bound=OpenRound)


def verify(codec: Codec, data: Bytes | Readable, n_params: int, *, max_norm: float | None = None) -> float:
    """Return the 2-norm of an update, or refuse it.

    Args:
        codec: it was encoded with.
        data: the encoded update.
        n_params: of the run's own spec.
        max_norm: largest norm that is accepted; None: any that is finite.

    Raises:
        PeerError: `length`, `not_finite` or `norm`.
    """
    squares = 0.0
    for _, block in codec.blocks(data, n_params):
        squares += _squares(block)
        if not math.isfinite(squares):
            raise PeerError(Reason.NOT_FINITE, "the update has NaN or Inf")
    norm = math.sqrt(squares)
    if max_norm is not None and norm > max_norm:
        raise PeerError(Reason.NORM, f"norm {norm:.6g} is over {max_norm:g}")
    return norm


def fold(
    rule: AggregationRule[S],
    state: S,
    codec: Codec,
    data: Bytes | Readable,
    *,
    weight: float,
    scale: float = 1.0,
    n_steps: float = 1,
) -> None:
    """Add an accepted update to what a rule has summed up.

    Args:
        rule: that made `state`.
        state: changed in place.
        codec: the update was encoded with.
        data: the encoded update, as it was verified.
        weight: what it counts against the others.
        scale: factor on the update itself.
        n_steps: that its device took.
    """
    rule.accumulate(state, codec.blocks(data, state.n_params), weight, scale=scale, n_steps=n_steps)


def _squares(block: NDArray[np.float32]) -> float:
    """Return the sum of squares; it is finite exactly when every value is."""
    with np.errstate(all="ignore"):
        found = float(np.dot(block, block))  # one pass in float32: the norm to six digits, and a NaN shows
        if not math.isfinite(found):  # or only too large for it: no square of a finite float32 overflows a float64
            wide = block.astype(np.float64)
            found = float(np.dot(wide, wide))
    return found
