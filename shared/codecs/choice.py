"""The codec that an assignment names."""

from collections.abc import Mapping
from types import MappingProxyType

from shared.codecs.codec import Codec
from shared.codecs.exact_buffers import ExactBuffers
from shared.codecs.floats import FLOAT16, FLOAT32
from shared.codecs.int8 import INT8
from shared.codecs.lossless import INT8_ZSTD, IS_INSTALLED
from shared.codecs.one_bit import ONE_BIT
from shared.codecs.top_k import TOP_1_PERCENT
from shared.errors import ConfigError
from shared.parameters import ParameterSpec

__all__ = ["CODECS", "EXTRAS", "NOT_INSTALLED", "codec_named"]

_OFFERED = (FLOAT32, FLOAT16, INT8, ONE_BIT, TOP_1_PERCENT, *((INT8_ZSTD,) if IS_INSTALLED else ()))
CODECS: Mapping[str, Codec] = MappingProxyType({codec.name: codec for codec in _OFFERED})
"""Every codec by its name on the wire; `int8-zstd` where the package zstandard is installed."""

EXTRAS: Mapping[str, str] = MappingProxyType({INT8_ZSTD.name: "fedmq[zstd]"})
"""What a codec needs beyond the package itself, as pip is told of it."""

NOT_INSTALLED: Mapping[str, str] = MappingProxyType(
    {name: f"{name} needs the extra {it}: pip install '{it}'" for name, it in EXTRAS.items() if name not in CODECS}
)
"""What is missing for a codec that there could be, by its name."""


def codec_named(name: str, spec: ParameterSpec | None = None) -> Codec:
    """Return a codec.

    Args:
        name: on the wire.
        spec: of the model whose updates it is for, with what travels behind it; None: of vectors without buffers.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        codec = CODECS[name]
    except KeyError:
        hint = NOT_INSTALLED.get(name, f"there are: {', '.join(CODECS)}")
        raise ConfigError(f"no codec {name!r}", hint=hint) from None
    if spec is None or codec is FLOAT32 or not spec.is_buffer.any():
        return codec
    return ExactBuffers(codec, spec.is_buffer)
