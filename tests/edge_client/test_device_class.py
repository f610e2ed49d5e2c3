from pathlib import Path

import pytest

from edge_client.device_class import read_device_class


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (b"Raspberry Pi Zero 2 W Rev 1.0\x00", "pi-zero-2"),
        (b"Raspberry Pi 4 Model B Rev 1.4\x00", "pi-4"),
        (b"Raspberry Pi 5 Model B Rev 1.0\x00", "pi-5"),
        (b"Raspberry Pi Compute Module 4 Rev 1.0\x00", "pi-cm-4"),
        (b"Pine64 RockPro64 v2.1\x00", "pine64-rockpro64-v2-1"),
        (b"", ""),
        (b"\xff\xfe\x00", ""),
    ],
)
def test_device_tree_tells_the_class(tmp_path: Path, model: bytes, expected: str) -> None:
    """In one word, whatever the board calls itself."""
    path = tmp_path / "model"
    path.write_bytes(model)
    assert read_device_class(path) == expected


def test_machine_without_a_device_tree_has_no_class(tmp_path: Path) -> None:
    """As a PC has none."""
    assert read_device_class(tmp_path / "model") == ""
