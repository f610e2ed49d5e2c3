import pytest

from shared.codecs import CODECS, codec_named
from shared.errors import ConfigError


def test_a_codec_is_found_by_its_name() -> None:
    """The name on the wire is the name in the settings."""
    assert {name: codec_named(name).name for name in CODECS} == {name: name for name in CODECS}


def test_an_unknown_codec_is_named_with_those_there_are() -> None:
    """The operator sees what to choose from."""
    with pytest.raises(ConfigError, match="no codec 'int7'\n  there are: float32, float16"):
        codec_named("int7")
