"""How a flat vector becomes bytes, and bytes a flat vector again.

`float32` is exact and the default. `float16` halves the bytes; its relative error is at most 2^-11 for magnitudes in
[6.1e-5, 65504], below that the absolute error is at most 2^-25, and larger magnitudes are clipped to 65504.

A codec never reads a shape or a length from the wire: the number of parameters is the receiver's own. Decoding works
on any block of the vector, so that an update is folded from its file without ever being in memory as a whole.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, PeerError, Reason

__all__ = ["CODECS", "Codec", "codec_named"]

Bytes = bytes | bytearray | memoryview


class Codec(Protocol):
    """An encode/decode pair; both sides must agree on it to the bit."""

    name: str

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        """Encode a vector.

        Args:
            vector: (n_params,) float32, finite.
            seed: of a codec that rounds at random.
        """

    def encoded_bytes(self, n_params: int) -> int:
        """Return the length that a vector of `n_params` must have in bytes."""

    def block_range(self, start: int, stop: int) -> tuple[int, int]:
        """Return the byte range that holds parameters [start, stop)."""

    def decode(self, data: Bytes, n_params: int) -> NDArray[np.float32]:
        """Decode a vector, or a block cut at `block_range`.

        Returns:
            (n_params,) float32, possibly a read-only view of `data`; possibly not finite.

        Raises:
            PeerError: the length is not that of `n_params` (`length`).
        """


class _Floats:
    """Little-endian IEEE numbers, one after the other."""

    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self._dtype = np.dtype(dtype)

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        if self._dtype.itemsize == 2:
            largest = float(np.finfo(np.float16).max)
            return np.clip(vector, -largest, largest).astype(self._dtype).tobytes()
        return vector.astype(self._dtype, copy=False).tobytes()

    def encoded_bytes(self, n_params: int) -> int:
        return n_params * self._dtype.itemsize

    def block_range(self, start: int, stop: int) -> tuple[int, int]:
        return start * self._dtype.itemsize, stop * self._dtype.itemsize

    def decode(self, data: Bytes, n_params: int) -> NDArray[np.float32]:
        if len(data) != self.encoded_bytes(n_params):
            raise PeerError(
                Reason.LENGTH, f"{len(data)} bytes of {self.name}, {self.encoded_bytes(n_params)} are {n_params} values"
            )
        return np.frombuffer(data, self._dtype).astype(np.float32, copy=False)


CODECS: Mapping[str, Codec] = MappingProxyType(
    {codec.name: codec for codec in (_Floats("float32", "<f4"), _Floats("float16", "<f2"))}
)
"""Every codec by its name on the wire."""


def codec_named(name: str) -> Codec:
    """Return a codec.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return CODECS[name]
    except KeyError:
        raise ConfigError(f"no codec {name!r}", hint=f"there are: {', '.join(CODECS)}") from None
