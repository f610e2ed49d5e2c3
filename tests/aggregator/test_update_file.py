"""What stands before and behind an update in its file."""

from pathlib import Path

import pytest

from aggregator.part_files import PartFiles
from aggregator.update_file import RowCopies, UpdateHead, fault_of_update, read_head
from shared.chunking import ChunkLayout
from tests.aggregator.builders import an_offer, lease_name

UPDATE = bytes(range(250)) * 20
SHA256 = an_offer(UPDATE).sha256 or ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished update of two chunks."""
    files, lease = PartFiles(tmp_path), lease_name(1)
    files.begin(an_offer(UPDATE, lease))
    layout = ChunkLayout(len(UPDATE), 4096)
    files.write(lease, [(index, bytes(layout.cut(UPDATE, index))) for index in range(len(layout))])
    files.finish(lease)
    return files.path(lease)


def fault(path: Path) -> str | None:
    """Return what is wrong with the update."""
    return fault_of_update(path, lease=lease_name(1), size=len(UPDATE), sha256=SHA256)


def test_head_says_where_the_update_lies(path: Path) -> None:
    """On a page of its own, whatever the Report says."""
    with path.open("rb") as file:
        head = read_head(file)
    assert head is not None
    assert head == UpdateHead.of(an_offer(UPDATE), ChunkLayout(len(UPDATE), 4096))
    assert path.read_bytes()[head.body_start : head.body_end] == UPDATE
    assert head.body_start % 4096 == 0


def test_copy_comes_back_and_leaves_the_update_as_it_is(path: Path) -> None:
    """Behind the update; the last that was kept."""
    copies = RowCopies(path.parent)
    assert list(copies.kept()) == []
    for copy in (b"[a longer one]", b"[last]"):
        copies.keep(lease_name(1), copy)
    assert list(copies.kept()) == [b"[last]"]
    assert fault(path) is None
    assert bytes(PartFiles(path.parent).open(lease_name(1)).data) == UPDATE


def test_copy_that_is_torn_anywhere_is_none(path: Path) -> None:
    """It was not synchronised: a power failure may leave any part of it."""
    copies = RowCopies(path.parent)
    n_before = path.stat().st_size
    copies.keep(lease_name(1), b"[1, 2, 3]")
    whole = path.read_bytes()
    for cut in range(n_before, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(copies.kept()) == []
        path.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        assert list(copies.kept()) == []
        assert fault(path) is None


def test_copy_of_another_lease_is_none(path: Path) -> None:
    """A file that is written over may still hold what stood behind the update before."""
    copies = RowCopies(path.parent)
    copies.keep(lease_name(1), b"[1, 2, 3]")
    path.rename(path.with_name(f"{lease_name(2)}.update"))
    assert list(copies.kept()) == []


def test_copy_without_its_file_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """Nothing is created for it."""
    with pytest.raises(FileNotFoundError):
        RowCopies(tmp_path).keep(lease_name(1), b"[]")
    (tmp_path / f"{lease_name(2)}.update").write_bytes(b"no update")
    with pytest.raises(OSError, match="does not begin with a report"):
        RowCopies(tmp_path).keep(lease_name(2), b"[]")


def test_update_cut_anywhere_is_noticed(path: Path) -> None:
    """Short of its head, of its page, or of its last byte."""
    whole = path.read_bytes()
    for cut in [*range(0, 600, 7), 4095, 4096, 4097, len(whole) - 1]:
        path.write_bytes(whole[:cut])
        assert fault(path) is not None
    path.unlink()
    assert fault(path) == "is missing"
    path.mkdir()
    assert (fault(path) or "").startswith("cannot be read")


def test_update_of_another_lease_or_size_is_not_this_one(path: Path) -> None:
    """Whatever lies under its name."""
    assert fault_of_update(path, lease=lease_name(2), size=len(UPDATE), sha256=SHA256) is not None
    assert fault_of_update(path, lease=lease_name(1), size=len(UPDATE) - 1, sha256=SHA256) is not None
    assert fault_of_update(path, lease=lease_name(1), size=len(UPDATE), sha256="0" * 64) is not None
