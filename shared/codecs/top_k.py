"""The largest values alone, with their places: a hundredth of the bytes, and biased.

Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory" (NeurIPS 2018, arXiv 1809.07599), §2, top_k; here of every
hundredth value. What is left out must not be forgotten, or values that are never among the largest never arrive: so the
codec needs feedback (`feedback.py`), which needs a device that keeps state and comes back.

Choose it for boxes with thin links that take part for months. Not for phones that come once, nor beside SCAFFOLD, whose
change of c is larger than the delta by 1/(K η) and would take every place.

* Of n values the k = ⌈n/100⌉ largest magnitudes arrive, the first of those that are alike, each off by at most 2^-11 of
  itself, or by 2^-25 of the largest where that is more, and where float32 itself rounds more coarsely, by that. The
  others arrive as zeros. So the squared error is at most 1 - k/n of the squared norm, and 2^-22 of it.
* The same vector gives the same bytes everywhere, by IEEE arithmetic alone; the seed is not used.
* A sender has no choice in how it writes an update: places grow, each is below n, and there are exactly k.
* Encoding takes twice its input beside it, decoding 128 KiB and 2 bytes for every 32,768 values.
"""

import numpy as np
from numpy.typing import NDArray

from shared.codecs.codec import BLOCK_PARAMS, Blocks, Bytes, Codec, Readable, refuse_length
from shared.errors import PeerError, Reason

__all__ = ["TOP_1_PERCENT"]

_SCALE_BYTES = 4


class _TopK:
    """A scale, how many are of each group of 32,768; then group by group their places in it, and float16 values.

    Args:
        name: on the wire.
        one_in: of how many values one is sent.
    """

    has_fixed_length = True
    needs_feedback = True

    def __init__(self, name: str, one_in: int) -> None:
        self.name = name
        self._one_in = one_in

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        k, n_groups = self._counts(len(vector))
        magnitudes = np.abs(vector)
        least = np.partition(magnitudes, len(vector) - k)[len(vector) - k]
        places = np.flatnonzero(~(magnitudes < least))  # NaN is among the largest, and arrives
        if len(places) > k:
            alike = np.flatnonzero(~(magnitudes[places] > least))
            places = np.delete(places, alike[k - len(places) :])
        peak = magnitudes.max()
        values = vector[places] / (peak if peak > 0 else np.float32(1))
        counts = np.bincount(places // BLOCK_PARAMS, minlength=n_groups)
        parts = [peak.astype("<f4").tobytes(), counts.astype("<u2").tobytes()]
        in_group, halves = (places % BLOCK_PARAMS).astype("<u2"), values.astype("<f2")
        first = 0
        for last in np.cumsum(counts).tolist():
            parts += (in_group[first:last].tobytes(), halves[first:last].tobytes())
            first = last
        return b"".join(parts)

    def encoded_bytes(self, n_params: int) -> int:
        k, n_groups = self._counts(n_params)
        return _SCALE_BYTES + 2 * n_groups + 4 * k

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        refuse_length(self, len(data), n_params)
        view = memoryview(data) if isinstance(data, Bytes) else data
        k, n_groups = self._counts(n_params)
        first = _SCALE_BYTES + 2 * n_groups
        scale = np.frombuffer(view[:_SCALE_BYTES], "<f4").astype(np.float32)
        counts = np.frombuffer(view[_SCALE_BYTES:first], "<u2").astype(np.int64)
        if counts.sum() != k:
            raise PeerError(Reason.CODEC, f"{self.name} with {counts.sum()} values, {n_params} have {k}")
        values = np.empty(min(BLOCK_PARAMS, n_params), np.float32)
        for start, count in zip(range(0, n_params, BLOCK_PARAMS), counts.tolist(), strict=True):
            block = values[: min(BLOCK_PARAMS, n_params - start)]
            group = view[first : first + 4 * count]
            places, halves = np.frombuffer(group[: 2 * count], "<u2"), np.frombuffer(group[2 * count :], "<f2")
            if count and (places[-1] >= len(block) or (places[1:] <= places[:-1]).any()):
                raise PeerError(Reason.CODEC, f"{self.name}: places from {start} on that do not grow, or are not there")
            block[:] = 0
            with np.errstate(all="ignore"):  # foreign numbers may be anything; admission sees what comes of them
                block[places] = halves.astype(np.float32) * scale
            first += 4 * count
            yield start, block

    def _counts(self, n_params: int) -> tuple[int, int]:
        """Return k, and the number of groups."""
        return -(-n_params // self._one_in), -(-n_params // BLOCK_PARAMS)


TOP_1_PERCENT: Codec = _TopK("top-1-percent", 100)
