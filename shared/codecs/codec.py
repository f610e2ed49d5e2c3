"""What a codec is: a pair of functions on which both sides agree to the bit.

A codec never reads a shape or a length from the wire: the number of parameters is the receiver's own. Whatever bytes a
receiver is given, a codec takes its stated memory and no more, and either refuses them or yields `n_params` numbers.
Those may be NaN or Inf: a codec makes no good numbers of bad ones, and admission looks for them.

Every codec yields its blocks at the same offsets, the multiples of BLOCK_PARAMS, and each call has buffers of its own:
so updates of different codecs can be read side by side, column by column.
"""

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shared.errors import PeerError, Reason

__all__ = ["BLOCK_PARAMS", "Blocks", "Bytes", "Codec", "Readable", "decode_vector", "refuse_length"]

BLOCK_PARAMS = 32_768
"""Parameters a block: 128 KiB as float32, 256 KiB as float64, which stays in a core's own cache."""

Bytes: TypeAlias = bytes | bytearray | memoryview
Blocks: TypeAlias = Iterator[tuple[int, NDArray[np.float32]]]
"""An update from its first parameter to its last: (offset of the block, (at most BLOCK_PARAMS,) float32)."""


class Readable(Protocol):
    """Encoded bytes that are read in ranges, such as those of a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Bytes:
        """Return a range; it may hold only until the next one is asked for."""


class Codec(Protocol):
    """An encode/decode pair."""

    name: str
    has_fixed_length: bool
    """Whether the length hangs on the number of values alone."""
    needs_feedback: bool
    """Whether what it leaves out has to be kept on the device and added to its next update: see `feedback.py`."""

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        """Encode a vector.

        Args:
            vector: (n_params,) float32, finite.
            seed: in [0, 2^63); of a codec that draws at random.
        """

    def encoded_bytes(self, n_params: int) -> int:
        """Return the length in bytes that `n_params` have; the largest, of a codec without a fixed length."""

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        """Yield a vector as (offset, (BLOCK_PARAMS,) float32), the last block shorter; each holds until the next.

        Args:
            data: encoded, from whoever.
            n_params: of the run's own spec.

        Raises:
            PeerError: the length is none that `n_params` have (`length`), before the first block; or the bytes are
                none that the codec makes (`codec`), before any block that hangs on them.
        """


def decode_vector(codec: Codec, data: Bytes | Readable, n_params: int) -> NDArray[np.float32]:
    """Return a whole vector: (n_params,) float32, possibly not finite.

    Raises:
        PeerError: as `Codec.blocks`.
    """
    vector = np.empty(n_params, np.float32)
    for start, block in codec.blocks(data, n_params):
        vector[start : start + len(block)] = block
    return vector


def refuse_length(codec: Codec, n_bytes: int, n_params: int) -> None:
    """Refuse a length that `n_params` do not have.

    Raises:
        PeerError: `length`.
    """
    expected = codec.encoded_bytes(n_params)
    if n_bytes != expected and (codec.has_fixed_length or not 0 < n_bytes < expected):
        bound = "" if codec.has_fixed_length else "at most "
        raise PeerError(Reason.LENGTH, f"{n_bytes} bytes of {codec.name}, {bound}{expected} are {n_params} values")
