from pathlib import Path

import pytest
import structlog

from edge_client.files import OnDisk
from edge_client.saved_numbers import SavedNumber


@pytest.mark.parametrize("number", [0, 7, 2**40, None])
def test_number_outlives_its_process(tmp_path: Path, number: int | None) -> None:
    """What was written is read, "nothing known" too."""
    SavedNumber(OnDisk(tmp_path), "n", least=0).write(number)
    assert SavedNumber(OnDisk(tmp_path), "n", least=0).read() == number


def test_number_that_was_never_written_is_unknown(tmp_path: Path) -> None:
    """A new device knows nothing, and says nothing about it."""
    with structlog.testing.capture_logs() as logs:
        assert SavedNumber(OnDisk(tmp_path), "n", least=0).read() is None
    assert logs == []


@pytest.mark.parametrize("content", [b"many", b"-1", b"\xff\xfe", b"3"])
def test_damaged_number_is_named_and_unknown(tmp_path: Path, content: bytes) -> None:
    """The device starts all the same, and the log names the file."""
    (tmp_path / "n").write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert SavedNumber(OnDisk(tmp_path), "n", least=4096).read() is None
    assert [(line["event"], line["file"]) for line in logs] == [("saved_number_damaged", str(tmp_path / "n"))]


def test_number_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    """A full disk does not stop a device."""
    with structlog.testing.capture_logs() as logs:
        SavedNumber(OnDisk(tmp_path / "nowhere"), "n", least=0).write(1)
    assert [line["event"] for line in logs] == ["saved_number_not_kept"]
