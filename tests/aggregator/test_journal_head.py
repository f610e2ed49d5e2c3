"""One whole line survives whatever happens to the other."""

from pathlib import Path

import pytest

from aggregator.journal_head import Head, HeadFile
from shared.errors import InvalidState


def a_head(seq: int) -> Head:
    """Return the end of a chain."""
    return Head(seq, bytes([seq % 256]) * 32)


def test_head_written_last_is_read(tmp_path: Path) -> None:
    """A restart learns how long the journal was."""
    head_file = HeadFile(tmp_path / "journal.head")
    assert head_file.read() is None
    head_file.create()
    for seq in range(1, 6):
        head_file.write(a_head(seq))
        again = HeadFile(tmp_path / "journal.head")
        assert again.read() == a_head(seq)
        again.close()
    head_file.close()


def test_write_goes_on_over_the_older_line_after_a_restart(tmp_path: Path) -> None:
    """The newest line is never the one that is being overwritten."""
    head_file = HeadFile(tmp_path / "journal.head")
    head_file.create()
    head_file.write(a_head(1))
    head_file.close()
    again = HeadFile(tmp_path / "journal.head")
    again.read()
    again.write(a_head(2))
    again.close()
    assert a_head(1).to_line() in (tmp_path / "journal.head").read_bytes()


def test_line_torn_at_any_byte_leaves_the_one_before(tmp_path: Path) -> None:
    """A power failure in the middle of a write costs one line, never both."""
    path = tmp_path / "journal.head"
    before, after = a_head(7).to_line(), a_head(8).to_line()
    for torn_at in range(len(after)):
        path.write_bytes(before + after[:torn_at] + bytes(len(after) - torn_at))
        head_file = HeadFile(path)
        assert head_file.read() == a_head(7)
        head_file.close()


def test_file_of_garbage_is_no_head(tmp_path: Path) -> None:
    """What cannot be read is not guessed."""
    path = tmp_path / "journal.head"
    path.write_bytes(b"\xff" * 500)
    head_file = HeadFile(path)
    assert head_file.read() is None
    head_file.close()


def test_write_after_close_is_refused(tmp_path: Path) -> None:
    """A closed file is a mistake of ours."""
    head_file = HeadFile(tmp_path / "journal.head")
    head_file.create()
    head_file.close()
    with pytest.raises(InvalidState):
        head_file.write(a_head(1))
