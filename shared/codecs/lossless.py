"""A codec's bytes, packed by Zstandard (RFC 8878) when that makes them fewer: nothing more is lost.

It pays for `int8`, and is offered for it alone. A model of which a device trains only a part, such as the embeddings of
the words that it has seen, becomes as small as that part: 8 % of int8 where 7 % of the words were seen. Of dense
updates 86 % are left (digits), 90 % (next words), 94 % (normally distributed values), for 4 ms in four million
parameters. zlib packs as tightly and takes 95 ms. `one-bit` and `top-1-percent` have nothing left to pack: 100 % and
93 %.

The values are those of the inner codec, and so are error, bias and seeds. The packed bytes may differ from one version
of the library to the next; what they unpack to does not.

What comes from outside is unpacked as it is asked for. Whatever a sender has packed, decoding takes 24 MiB at most
beside the inner codec's, 8 of them the window, and of a small update less: 8 MiB of the window, 1 MiB, and four times
the inner codec's bytes. Of what an honest one sends it is 1 MiB. A frame that wants a larger window, has another
length, no end, or anything behind it is refused. Encoding takes the inner codec's bytes twice.

Needs the package zstandard, in the extra `[zstd]`; without it a device does not speak this codec.
"""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from shared.codecs.codec import Blocks, Bytes, Codec, Readable, refuse_length
from shared.codecs.int8 import INT8
from shared.errors import PeerError, Reason

__all__ = ["INT8_ZSTD", "IS_INSTALLED"]

IS_INSTALLED = find_spec("zstandard") is not None
LEVEL = 1
"""The quickest; level 9 saves less than 1 % more."""
MAX_WINDOW_BYTES = 8 * 2**20
"""What RFC 8878 wants every decoder to have."""
MIN_FED_BYTES, MAX_FED_BYTES = 32, 512
"""Fed at once: four bytes can unpack to the 128 KiB of one block, so these to 1 MiB and 16 MiB at most."""
FED_SHARE = 2**13
"""Of the bytes wanted, fed at once within these limits: so they can unpack to four times what is wanted."""


class _Zstd:
    """One frame that unpacks to the inner codec's bytes; or these themselves, when the frame would not be shorter.

    Args:
        inner: codec of fixed length, whose bytes are read from the first to the last.
    """

    has_fixed_length = False
    needs_feedback = False

    def __init__(self, inner: Codec) -> None:
        self.name = f"{inner.name}-zstd"
        self._inner = inner

    def encode(self, vector: NDArray[np.float32], seed: int) -> bytes:
        import zstandard

        plain = self._inner.encode(vector, seed)
        packed: bytes = zstandard.ZstdCompressor(level=LEVEL).compress(plain)
        return packed if len(packed) < len(plain) else plain

    def encoded_bytes(self, n_params: int) -> int:
        return self._inner.encoded_bytes(n_params)

    def blocks(self, data: Bytes | Readable, n_params: int) -> Blocks:
        refuse_length(self, len(data), n_params)
        n_plain = self._inner.encoded_bytes(n_params)
        if len(data) == n_plain:
            yield from self._inner.blocks(data, n_params)
        else:
            view = memoryview(data) if isinstance(data, Bytes) else data
            unpacked = _Unpacked(view, n_plain)
            yield from self._inner.blocks(unpacked, n_params)
            unpacked.end()


class _Unpacked:
    """What a frame holds, range by range from the first on.

    Args:
        packed: the frame, from whoever.
        n_bytes: that it should hold.
    """

    def __init__(self, packed: Readable, n_bytes: int) -> None:
        import zstandard

        self._packed, self._n_bytes = packed, n_bytes
        self._fed_bytes = min(max(n_bytes // FED_SHARE, MIN_FED_BYTES), MAX_FED_BYTES)
        self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._error = zstandard.ZstdError
        self._n_fed = self._n_unpacked = 0
        self._ahead = bytearray()  # unpacked, and not asked for yet

    def __len__(self) -> int:
        return self._n_bytes

    def __getitem__(self, part: slice) -> bytes:
        first, last, _ = part.indices(self._n_bytes)
        while len(self._ahead) < last - first:
            if self._is_over:
                raise PeerError(Reason.CODEC, f"unpacked, it has {self._n_unpacked} bytes of {self._n_bytes}")
            self._feed()
        wanted = bytes(self._ahead[: last - first])
        del self._ahead[: last - first]
        return wanted

    def end(self) -> None:
        """Refuse whatever has no end, or anything behind it."""
        while not self._is_over:
            self._feed()
        if not self._frame.eof or self._frame.unused_data or self._n_fed < len(self._packed):
            raise PeerError(Reason.CODEC, "its packed bytes have no end, or something follows it")

    @property
    def _is_over(self) -> bool:
        return self._frame.eof or self._n_fed == len(self._packed)

    def _feed(self) -> None:
        piece = bytes(self._packed[self._n_fed : self._n_fed + self._fed_bytes])
        self._n_fed += len(piece)
        try:
            unpacked = self._frame.decompress(piece)
        except self._error as error:
            raise PeerError(Reason.CODEC, f"it does not unpack: {error}") from error
        self._n_unpacked += len(unpacked)
        if self._n_unpacked > self._n_bytes:
            raise PeerError(Reason.CODEC, f"unpacked, it has more than its {self._n_bytes} bytes")
        self._ahead += unpacked


INT8_ZSTD: Codec = _Zstd(INT8)
