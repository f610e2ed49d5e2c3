"""A view for people: a line is there or not, never half."""

from pathlib import Path

import pytest

from aggregator.json_lines import append_lines, cut_torn_line, read_lines
from shared.errors import ConfigError


def test_entries_are_appended_and_read(tmp_path: Path) -> None:
    """In their order, a batch in one write."""
    path = tmp_path / "lines"
    assert append_lines(path, [{"a": 1}, {"a": 2}])
    assert append_lines(path, [{"a": 3}])
    assert list(read_lines(path)) == [(1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3})]


def test_full_disk_costs_lines_only(tmp_path: Path) -> None:
    """It is said in the log, and nothing is raised."""
    assert not append_lines(Path("/dev/full"), [{"a": 1}])
    assert not append_lines(tmp_path, [{"a": 1}])


def test_torn_line_is_left_out_and_cut(tmp_path: Path) -> None:
    """So that the next one is whole."""
    path = tmp_path / "lines"
    append_lines(path, [{"a": 1}])
    with path.open("a") as file:
        file.write('{"a"')
    assert [entry for _, entry in read_lines(path)] == [{"a": 1}]
    cut_torn_line(path)
    append_lines(path, [{"a": 2}])
    assert [entry for _, entry in read_lines(path)] == [{"a": 1}, {"a": 2}]


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    """By its line."""
    path = tmp_path / "lines"
    path.write_text("{}\nno\n")
    with pytest.raises(ConfigError, match="line 2"):
        list(read_lines(path))
