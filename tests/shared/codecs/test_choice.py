import subprocess
import sys

import pytest

from shared.codecs import CODECS, codec_named
from shared.errors import ConfigError


def test_a_codec_is_found_by_its_name() -> None:
    """The name on the wire is the name in the settings."""
    assert {name: codec_named(name).name for name in CODECS} == {name: name for name in CODECS}


def test_a_codec_that_is_not_installed_says_what_it_needs() -> None:
    """A name that is right on another machine."""
    hidden = "import sys; sys.modules['zstandard'] = None; from shared.codecs import codec_named; "
    ran = subprocess.run([sys.executable, "-c", f"{hidden}codec_named('int8-zstd')"], capture_output=True, text=True)
    assert "ConfigError: no codec 'int8-zstd'\n  int8-zstd needs the extra fedmq[zstd]: pip install" in ran.stderr


def test_an_unknown_codec_is_named_with_those_there_are() -> None:
    """The operator sees what to choose from."""
    with pytest.raises(ConfigError, match="no codec 'int7'\n  there are: float32, float16"):
        codec_named("int7")
