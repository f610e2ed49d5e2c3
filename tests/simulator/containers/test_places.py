import os
from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulator.containers.places import Places, claimed

PORCH = ["porch-1", "porch-2"]


def test_devices_are_claimed_in_their_order_and_once_each(tmp_path: Path) -> None:
    """Whoever comes gets the first that nobody is; the next is refused, with what to do."""
    with claimed(tmp_path, PORCH) as first, claimed(tmp_path, PORCH) as second:
        assert [first, second] == PORCH
        third = claimed(tmp_path, PORCH)
        with pytest.raises(ConfigError, match=r"all 2 devices run already: porch-1 to porch-2\n.*`count`"):
            third.__enter__()


def test_device_whose_holder_ended_is_claimed_again(tmp_path: Path) -> None:
    """A container that is started again finds what was its own, or that of another which is gone."""
    with claimed(tmp_path, PORCH) as first, claimed(tmp_path, PORCH) as second:
        assert first != second
    with claimed(tmp_path, PORCH) as name:
        assert name == "porch-1"


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A volume that belongs to somebody else, say."""
    (tmp_path / "rehearsal").touch()
    with pytest.raises(ConfigError, match="the same volume"):
        Places(tmp_path).make()
    assert os.listdir(tmp_path) == ["rehearsal"]
