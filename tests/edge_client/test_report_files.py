from io import BytesIO
from pathlib import Path

import pytest

from edge_client.report_files import header_of, read_report
from shared.chunking import sha256_hex
from shared.messages import Report, Reported
from tests.edge_client.builders import RUN, lease

UPDATE = b"an update"
REPORT = Report(
    lease=lease(1),
    run=RUN,
    outcome=Reported.TRAINED,
    codec="float32",
    num_examples=3,
    size=len(UPDATE),
    sha256=sha256_hex(UPDATE),
    chunk_bytes=4096,
)


def test_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Header and update, and where the update begins."""
    entry, header = header_of(REPORT, round=4, version=3, stored_at=7.5, n_bytes=len(UPDATE))
    (tmp_path / "x").write_bytes(header + UPDATE)
    assert read_report(BytesIO((tmp_path / "x").read_bytes()), lease(1)) == entry
    assert entry.start == len(header)


def test_file_under_another_name_is_damaged(tmp_path: Path) -> None:
    """Two files were mixed up: neither is offered under the other's lease."""
    _, header = header_of(REPORT, round=4, version=3, stored_at=7.5, n_bytes=len(UPDATE))
    (tmp_path / "x").write_bytes(header + UPDATE)
    with pytest.raises(ValueError, match=f"it holds lease {lease(1)}"):
        read_report(BytesIO((tmp_path / "x").read_bytes()), lease(2))


def test_file_of_the_wrong_length_says_by_how_much(tmp_path: Path) -> None:
    """A file that was cut is told from one whose bits have flipped."""
    _, header = header_of(REPORT, round=4, version=3, stored_at=7.5, n_bytes=len(UPDATE))
    whole = header + UPDATE
    for data, cause in [
        (whole[:-4], "its update is 4 bytes short"),
        (whole + b"xy", "its update is 2 bytes too long"),
        (whole[:20], "it ends after 20 bytes, within its header"),
        (header[:-1], f"it ends after {len(header) - 1} bytes, within its header"),
        (whole[:-1] + b"?", "its update has another checksum"),
    ]:
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(ValueError, match=cause):
            read_report(BytesIO((tmp_path / "x").read_bytes()), lease(1))
