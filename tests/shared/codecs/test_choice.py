import pytest

from shared.codecs import CODECS, NOT_INSTALLED, codec_named
from shared.errors import ConfigError


def test_a_codec_is_found_by_its_name() -> None:
    """The name on the wire is the name in the settings."""
    assert {name: codec_named(name).name for name in CODECS} == {name: name for name in CODECS}


@pytest.mark.skipif(not NOT_INSTALLED, reason="everything is installed")
def test_a_codec_that_is_not_installed_says_what_it_needs() -> None:
    """A name that is right on another machine."""
    with pytest.raises(ConfigError, match="no codec 'int8-zstd'\n  int8-zstd needs the package zstandard"):
        codec_named("int8-zstd")


def test_an_unknown_codec_is_named_with_those_there_are() -> None:
    """The operator sees what to choose from."""
    with pytest.raises(ConfigError, match="no codec 'int7'\n  there are: float32, float16"):
        codec_named("int7")
