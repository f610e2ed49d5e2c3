"""The picture of a fleet for a terminal: pure, a view in and something to print out.

It can be read without colours, and a device's text is only ever text: no markup, no control characters.

Not here: what is known (`fleet_view.py`), and when it is drawn (`watch.py`).
"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aggregator.fleet_view import DeviceState, FleetView
from shared.messages import for_people

__all__ = ["render", "sparkline"]

SPARKS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 40
"""Columns of a curve and of the round's own bar."""
_STYLES = {
    DeviceState.UPLOADING: "green",
    DeviceState.TRAINING: "cyan",
    DeviceState.FETCHING: "blue",
    DeviceState.LATE: "yellow",
    DeviceState.REFUSED: "magenta",
    DeviceState.GONE: "red",
    DeviceState.IDLE: "dim",
}
_CROWDED = {state: rank for rank, state in enumerate(DeviceState)}


def render(view: FleetView, now: float, *, max_rows: int = 1000) -> RenderableType:
    """Return the whole picture.

    Args:
        view: what is known.
        now: seconds, on the clock that the view was told.
        max_rows: devices that are shown; of more, the busiest.
    """
    if view.run is None:
        return Group(Text("waiting for an aggregator to say something", style="dim"), _devices(view, max_rows))
    run = view.run
    head = Text.assemble(
        (run.run, "bold"), "   round ", (str(run.round), "bold"), "   version ", (str(run.version), "bold"), "   "
    )
    phase = for_people(run.phase) if view.is_served else "aggregator gone"
    head.append(phase, style={"reporting": "green", "finished": "bold green", "paused": "yellow"}.get(phase, "yellow"))
    left = view.seconds_left(now)
    if left is not None and phase == "reporting":
        head.append(f"   {left:.0f} s left")
    parts: list[RenderableType] = [head, _progress(view)]
    parts += [Text(cause, style="yellow") for cause in run.causes]
    counts = [f"{for_people(name)} {n}" for name, n in run.states.items() if n]
    if counts:
        parts.append(Text("leases    " + "   ".join(counts)))
    for name, trend in sorted(view.trends.items()):
        parts.append(Text.assemble(f"{name:<10}", (f"{trend[-1]:<8.4g}", "bold"), (sparkline(list(trend)), "cyan")))
    return Group(*parts, _devices(view, max_rows))


def _progress(view: FleetView) -> RenderableType:
    run = view.run
    assert run is not None
    if run.phase == "waiting":
        return Text(f"devices   {run.have} there, {run.need} needed")
    share = min(1.0, run.have / run.goal) if run.goal else 0.0
    return Text.assemble("reports   ", _bar(share, BAR_WIDTH), f"  {run.have} of {run.goal}, quorum {run.need}")


def _bar(share: float, width: int) -> Text:
    """Return a bar that can be read without colours."""
    n_full = int(share * width)
    return Text.assemble(("█" * n_full, "green"), ("░" * (width - n_full), "dim"), f" {share:4.0%}")


def _devices(view: FleetView, max_rows: int) -> RenderableType:
    states = {device: view.state(device) for device in view.devices}
    shown = sorted(states)
    if len(shown) > max_rows:
        shown = sorted(shown, key=lambda device: (_CROWDED[states[device]], device))[:max_rows]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("device", "does", "round", "progress", ""):
        table.add_column(title, no_wrap=True)
    for device in shown:
        status, state = view.devices[device], states[device]
        is_busy = state not in (DeviceState.IDLE, DeviceState.REFUSED, DeviceState.GONE)
        table.add_row(
            Text(device),
            Text(_words(state, status.phase), style=_STYLES[state]),
            Text(str(status.round)) if is_busy and status.round is not None else Text(""),
            _bar(status.progress, 16) if is_busy and status.progress is not None else Text(""),
            Text(view.note(device), style="dim"),
        )
    counts = [(state, sum(s is state for s in states.values())) for state in DeviceState]
    caption = ", ".join(f"{n} {state}" for state, n in counts if n) or "no devices yet"
    hidden = f" ({len(states) - len(shown)} not shown)" if len(shown) < len(states) else ""
    return Group(Text(), table, Text(f"{len(states)} devices: {caption}{hidden}", style="dim"))


def _words(state: DeviceState, phase: str) -> str:
    return f"late, {for_people(phase)}" if state is DeviceState.LATE else str(state)


def sparkline(values: list[float], width: int = BAR_WIDTH) -> str:
    """Return the last `width` values as a line of blocks, from the least to the largest of them."""
    values = values[-width:]
    if not values:
        return ""
    low, span = min(values), max(values) - min(values)
    if span <= 0:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in values)
