"""A person sees in the table what happens, whatever the width, and nothing that a device could have drawn."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from aggregator.fleet_table import SPARKS, render, sparkline
from aggregator.fleet_view import FleetView
from shared.errors import Reason
from tests.aggregator.fleet_messages import TOPICS, a_device, a_status


def as_text(picture: RenderableType, width: int = 100) -> str:
    """Return a picture as a terminal of that width would show it, without colours."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


def a_view(*messages: tuple[str, bytes]) -> FleetView:
    """Return a view that has seen messages."""
    view = FleetView(TOPICS)
    for topic, payload in messages:
        view.saw(topic, payload, 0.0)
    return view


def test_table_says_how_far_the_round_is_and_who_does_what() -> None:
    """Round, phase, version, reports against the goal, time left, metric, and a row for each device."""
    text = as_text(
        render(
            a_view(
                a_status(version=1),
                a_status(version=2),
                a_device("pi-1"),
                a_device("pi-2", "reporting", 0.5),
                a_device("pi-3", round=2),
                a_device("pi-4", online=False),
                a_device("pi-5", "idle", lease=None, refusal=Reason.NOT_ELIGIBLE, detail="on battery"),
            ),
            now=10.0,
        )
    )
    for expected in (
        "digits",
        "round 3",
        "version 2",
        "20 s left",
        "4 of 12, quorum 10",
        "accepted 28",
        "0.5",
        SPARKS[-1],
    ):
        assert expected in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("pi-")}
    assert "training" in rows["pi-1"]
    assert "uploading" in rows["pi-2"]
    assert "████████░░░░░░░░  50%" in rows["pi-2"]
    assert "late, training" in rows["pi-3"]
    assert "gone" in rows["pi-4"]
    assert "not_eligible: on battery" in rows["pi-5"]
    assert "5 devices: 1 uploading, 1 training, 1 late, 1 refused, 1 gone" in text


def test_table_before_anything_is_known_says_so() -> None:
    """An empty screen would look like a fault."""
    assert "waiting for an aggregator" in as_text(render(FleetView(TOPICS), 0.0))


def test_table_of_a_large_fleet_shows_the_busy_ones() -> None:
    """What does not fit is counted, and idle devices go first."""
    idle = [a_device(f"a-{i}", "idle", lease=None) for i in range(50)]
    text = as_text(render(a_view(a_status(), *idle, a_device("z-9")), 0.0, max_rows=5))
    assert "z-9" in text
    assert "51 devices: 1 training, 50 idle (46 not shown)" in text


def test_table_of_a_narrow_terminal_wraps_no_row() -> None:
    """A row a device, whatever the width."""
    view = a_view(a_status(), a_device("pi-1", detail="x" * 200))
    assert sum("pi-1" in line or "xxx" in line for line in as_text(render(view, 0.0), width=40).splitlines()) == 1


def test_device_cannot_write_markup() -> None:
    """Brackets in a detail are text."""
    view = a_view(a_device("pi-1", "idle", lease=None, detail="[bold red]hello[/]"))
    assert "[bold red]hello[/]" in as_text(render(view, 0.0))


@given(st.lists(st.floats(-1e9, 1e9), max_size=100))
def test_sparkline_has_a_block_a_value(values: list[float]) -> None:
    """The last forty at most, the largest the highest."""
    line = sparkline(values)
    assert len(line) == min(len(values), 40)
    if values and max(values[-40:]) > min(values[-40:]):
        assert line[values[-40:].index(max(values[-40:]))] == SPARKS[-1]
