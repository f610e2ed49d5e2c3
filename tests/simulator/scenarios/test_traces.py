import pytest

from shared.errors import ConfigError
from simulator.scenarios.traces import Trace, read_trace

HEAD = "device,from_s,to_s,state"


def test_trace_is_read_device_by_device_and_joins_what_touches() -> None:
    """Rows of several devices may be mixed; spans of the same state that touch are one."""
    lines = [HEAD, "a,0,10,down", "b,0,5,up", "a,10,20,up", "a,20,30,up", "", "a,30,40,down", "b,5,7.5,up"]
    assert read_trace(lines, "t.csv") == (Trace("a", ((10, 30),), 40), Trace("b", ((0, 7.5),), 7.5))


@pytest.mark.parametrize(
    ("rows", "line", "says"),
    [
        (["a,0,10,up", "a,12,20,down"], 3, "a gap: nothing is said of device a from 10 to 12 s"),
        (["a,5,10,up"], 2, "a gap: nothing is said of device a from 0 to 5 s"),
        (["a,0,10,up", "b,0,3,up", "a,9,20,down"], 4, "begins at 9 s, and the row before ends at 10 s"),
        (["a,0,10,up", "a,10,20,down", "a,4,5,up"], 4, "sort each device's rows"),
        (["a,-1,10,up"], 2, "from_s = -1"),
        (["a,0,nan,up"], 2, "to_s = nan"),
        (["a,zero,10,up"], 2, "from_s = 'zero' is no number"),
        (["a,10,10,up"], 2, "not after"),
        (["a,0,10,maybe"], 2, "up or down"),
        (["a,0,10"], 2, "3 cells"),
        ([",0,10,up"], 2, "device is empty"),
    ],
)
def test_mistake_in_a_trace_names_file_and_line(rows: list[str], line: int, says: str) -> None:
    """Holes, overlaps, times that go back, negatives and what is no number are the operator's, with the line."""
    with pytest.raises(ConfigError) as caught:
        read_trace([HEAD, *rows], "phones.csv")
    assert f"phones.csv, line {line}" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["device,from,to"], "line 1: the columns are"),
        ([], "not none"),
        ([HEAD], "no device"),
        ([HEAD, "a,0,1,down"], "never up"),
    ],
)
def test_trace_without_head_or_devices_is_refused(lines: list[str], says: str) -> None:
    """A file that says nothing is refused as such."""
    with pytest.raises(ConfigError, match=says):
        read_trace(lines, "t.csv")
