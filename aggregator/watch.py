"""The live table of a run: a plain subscriber, like any other, that draws what the broker retains.

On a terminal a table, elsewhere a line for each change, or JSON lines for programs. It needs no right but to read
`aggregator/#` and `from/+/status`, changes nothing, and survives the broker.

Not here: what is known (`fleet_view.py`).
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aggregator.fleet_view import DeviceState, FleetView
from broker.reconnect import Reconnect
from broker.transport import Message, Transport
from shared.errors import ConfigError, TransportError
from shared.messages import AggregatorStatus, for_people
from shared.topics import AggregatorStatusTopic, Topics

__all__ = ["render", "sparkline", "watch"]

REDRAW_S = 0.25
"""Seconds between two drawings of the table."""
HEAD_LINES = 12
"""Lines that everything but the rows of devices takes, at most."""
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40
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


class _Display(Protocol):
    """Where what happens is shown."""

    def saw(self, message: Message, changes: list[str]) -> None:
        """Show one message, whose changes the view has named."""

    def note(self, line: str) -> None:
        """Say something about watching itself."""

    def tick(self) -> None:
        """Time has passed."""


async def watch(
    transport: Transport,
    fleet: str,
    console: Console,
    *,
    as_json: bool = False,
    until: Callable[[FleetView], bool] = lambda view: view.is_finished,
    rng: Random | None = None,
) -> FleetView:
    """Show a run until it is finished; return what was known in the end.

    Args:
        transport: of a client id that may read.
        fleet: which.
        console: a terminal gets the table, anything else lines.
        as_json: a JSON object a message, to programs.
        until: asked after every message; whether to end.
        rng: of the jitter between attempts to reach the broker.

    Raises:
        CredentialsRefused: the broker says no.
    """
    view = FleetView(Topics(fleet))
    with _display(view, console, as_json=as_json) as display:
        refused: list[ConfigError] = []

        async def follow() -> None:
            try:
                await _follow(transport, view, display, until, Reconnect(rng or Random()))
            except ConfigError as error:  # a group would wrap it
                refused.append(error)

        async def redraw() -> None:
            while True:
                await asyncio.sleep(REDRAW_S)
                display.tick()

        async with asyncio.TaskGroup() as group:
            drawing = group.create_task(redraw(), name="watch-redraw")
            await follow()
            drawing.cancel()
    if refused:
        raise refused[0]
    return view


async def _follow(
    transport: Transport, view: FleetView, display: _Display, until: Callable[[FleetView], bool], reconnect: Reconnect
) -> None:
    """Take in what arrives, over as many connections as it needs."""
    topics, now = view.topics, asyncio.get_running_loop().time
    while True:
        try:
            async with transport.connect() as connection:
                await connection.subscribe([topics.build(AggregatorStatusTopic())])
                await connection.subscribe([topics.every_status], qos=0)
                async for message in connection.messages():
                    reconnect.progress()
                    display.saw(message, view.saw(message.topic, message.payload, now()))
                    if until(view):
                        return
        except TransportError as error:
            wait_s = reconnect.after_failure()
            display.note(f"no broker: {error}; trying again in {wait_s:.1f} s")
            await asyncio.sleep(wait_s)


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
    return Text.assemble("reports   ", _bar(share, SPARK_WIDTH), f"  {run.have} of {run.goal}, quorum {run.need}")


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


def sparkline(values: list[float], width: int = SPARK_WIDTH) -> str:
    """Return the last `width` values as a line of blocks, from the least to the largest of them."""
    values = values[-width:]
    if not values:
        return ""
    low, span = min(values), max(values) - min(values)
    if span <= 0:
        return SPARKS[0] * len(values)
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in values)


@contextmanager
def _display(view: FleetView, console: Console, *, as_json: bool) -> Iterator[_Display]:
    if as_json or not console.is_terminal:
        yield _Lines(console, as_json=as_json)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        table = _LiveTable(view, live)
        try:
            yield table
        finally:
            table.tick()


class _LiveTable:
    """The table, drawn anew at every tick."""

    def __init__(self, view: FleetView, live: Live) -> None:
        self._view, self._live = view, live
        self._note = ""

    def saw(self, message: Message, changes: list[str]) -> None:
        self._note = ""

    def note(self, line: str) -> None:
        self._note = line
        self.tick()

    def tick(self) -> None:
        now = asyncio.get_running_loop().time()
        picture = render(self._view, now, max_rows=max(5, self._live.console.height - HEAD_LINES))
        note = [Text(self._note, style="red")] if self._note else []
        self._live.update(Group(picture, *note), refresh=True)


class _Lines:
    """A line a change, or JSON."""

    def __init__(self, console: Console, *, as_json: bool) -> None:
        self._console, self._as_json = console, as_json

    def saw(self, message: Message, changes: list[str]) -> None:
        if not self._as_json:
            for line in changes:
                self._print(line)
            return
        if len(message.payload) > AggregatorStatus.max_message_bytes:
            return
        try:
            found = json.loads(message.payload)
        except (ValueError, RecursionError):  # deleted, or nobody's business
            return
        self._print(json.dumps({"topic": message.topic, "status": found}))

    def note(self, line: str) -> None:
        self._print(json.dumps({"note": line}) if self._as_json else line)

    def tick(self) -> None:
        return

    def _print(self, line: str) -> None:
        # as it is: no wrapping, no markup
        self._console.file.write(line + "\n")
        self._console.file.flush()
