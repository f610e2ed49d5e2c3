"""The codec that an assignment names."""

from collections.abc import Mapping
from types import MappingProxyType

from shared.codecs.codec import Codec
from shared.codecs.floats import FLOAT16, FLOAT32
from shared.codecs.int8 import INT8
from shared.codecs.one_bit import ONE_BIT
from shared.codecs.top_k import TOP_1_PERCENT
from shared.errors import ConfigError

__all__ = ["CODECS", "codec_named"]

CODECS: Mapping[str, Codec] = MappingProxyType(
    {codec.name: codec for codec in (FLOAT32, FLOAT16, INT8, ONE_BIT, TOP_1_PERCENT)}
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
