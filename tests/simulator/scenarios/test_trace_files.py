from pathlib import Path

import pytest

from shared.errors import ConfigError
from simulator.scenario import Scenario
from simulator.scenarios.trace_files import read_traces, trace_of

SCENARIO = Scenario.model_validate(
    {"run": {"task": "m:t"}, "devices": {"phone": {"count": 3, "availability": {"trace": "t.csv"}}, "box": {}}}
)


def test_devices_take_the_traces_of_the_file_in_turn(tmp_path: Path) -> None:
    """Three phones share two traces; a box has none."""
    (tmp_path / "t.csv").write_text("device,from_s,to_s,state\na,0,5,up\nb,0,7,up\n")
    traces = read_traces(SCENARIO, tmp_path)
    owned = [trace_of(device, traces) for device in SCENARIO.plan()]
    assert [trace and trace.device for trace in owned] == ["a", "b", "a", None]


def test_trace_that_is_missing_names_key_and_file(tmp_path: Path) -> None:
    """The operator learns which key asks for which file."""
    with pytest.raises(ConfigError, match=r"devices\.phone\.availability.trace cannot be read") as caught:
        read_traces(SCENARIO, tmp_path)
    assert str(tmp_path / "t.csv") in str(caught.value)
