"""How a flat vector becomes bytes, and bytes a flat vector again. One family a file."""

from shared.codecs.choice import CODECS, EXTRAS, NOT_INSTALLED, codec_named
from shared.codecs.codec import BLOCK_PARAMS, Blocks, Bytes, Codec, Readable, decode_vector, refuse_length
from shared.codecs.feedback import encode_with_feedback

__all__ = [
    "BLOCK_PARAMS",
    "CODECS",
    "EXTRAS",
    "NOT_INSTALLED",
    "Blocks",
    "Bytes",
    "Codec",
    "Readable",
    "codec_named",
    "decode_vector",
    "encode_with_feedback",
    "refuse_length",
]
