"""The lines of a timeline: written as they are, read as they were."""

import json
from pathlib import Path

import pytest

from aggregator.json_lines import append_lines
from aggregator.timeline_lines import (
    LeaseLine,
    PauseLine,
    PopulationLine,
    RefusalLine,
    StartLine,
    TimelineLine,
    as_entry,
    read_timeline,
)
from shared.errors import ConfigError

LINES: list[TimelineLine] = [
    StartLine(round_id=1, at=10.0),
    LeaseLine(
        lease="1" * 32,
        device="d0",
        round_id=1,
        state="accepted",
        given_at=11.0,
        seconds=2.0,
        parts=(0.0, 0.5, 1.0, 0.5, 0.0),
        last="upload",
        is_online=True,
        offered_after_s=1.5,
    ),
    RefusalLine(device="d1", device_class="pi-4", round_id=1, reason="data", detail="none", at=12.0),
    PauseLine(round_id=1, causes={"error": "the rule refused"}, at=12.5),
    PopulationLine(round_id=1, by_class={"pi-4": 2}),
]


def test_lines_come_back(tmp_path: Path) -> None:
    """Every kind; one that is being written is left out."""
    path = tmp_path / "timeline.jsonl"
    assert append_lines(path, map(as_entry, LINES))
    with path.open("a") as file:
        file.write('{"kind": "lea')
    assert list(read_timeline(path)) == LINES


def test_no_file_is_no_line(tmp_path: Path) -> None:
    """A run from before there were timelines has none."""
    assert list(read_timeline(tmp_path / "none")) == []


@pytest.mark.parametrize("entry", ["[1]", '{"kind": "new"}', '{"kind": "start"}', json.dumps(as_entry(LINES[0]))[:-1]])
def test_foreign_line_is_named(entry: str, tmp_path: Path) -> None:
    """With its number, and what to do about it."""
    path = tmp_path / "timeline.jsonl"
    append_lines(path, [as_entry(LINES[0])])
    with path.open("a") as file:
        file.write(entry + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        list(read_timeline(path))
