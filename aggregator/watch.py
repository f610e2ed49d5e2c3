"""The live table of a run: a plain subscriber, like any other, that draws what the broker retains.

On a terminal a table, elsewhere a line for each change, or JSON lines for programs. It needs no right but to read
`aggregator/#` and `from/+/status`, changes nothing, and survives the broker.

Not here: what is known (`fleet_view.py`), and how it looks (`fleet_table.py`).
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from aggregator.config import Settings
from aggregator.fleet_table import render
from aggregator.fleet_view import FleetView
from broker.config import BrokerSettings
from broker.reconnect import Reconnect
from broker.transport import Message, Transport
from shared.config import load_settings
from shared.errors import ConfigError, TransportError
from shared.messages import AggregatorStatus
from shared.topics import NAME, AggregatorStatusTopic, Topics

__all__ = ["WatchSettings", "watch", "watch_fleet"]

REDRAW_S = 0.25
"""Seconds between two drawings of the table."""
HEAD_LINES = 12
"""Lines that everything but the rows of devices takes, at most."""


class WatchSettings(BaseModel):
    """What a watcher without the run's TOML has to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fleet: str = Field("fleet", pattern=f"^{NAME.pattern}$", description="which devices: a segment of every topic")
    broker: BrokerSettings = BrokerSettings()


class _Display(Protocol):
    """Where what happens is shown."""

    def saw(self, message: Message, changes: list[str]) -> None:
        """Show one message, whose changes the view has named."""

    def note(self, line: str) -> None:
        """Say something about watching itself."""

    def tick(self) -> None:
        """Time has passed."""


async def watch_fleet(toml: Path | None, broker: str | None, fleet: str | None, *, as_json: bool = False) -> int:
    """Show a fleet over a real broker, on standard output, until its run is finished; return the exit code.

    Args:
        toml: of the run; None: `broker`, `fleet` and the environment say everything.
        broker: URL, over the TOML's.
        fleet: over the TOML's.
        as_json: JSON lines.

    Raises:
        ConfigError: the settings are wrong, or the broker says no.
    """
    from broker.mqtt import MqttTransport  # a watcher of a simulated broker needs none of it

    given = {"broker.url": broker, "fleet": fleet}
    settings = load_settings(WatchSettings, None, given) if toml is None else load_settings(Settings, toml, given)
    # an id of its own: with the aggregator's it would push the aggregator out
    transport = MqttTransport(settings.broker, f"watch-{secrets.token_hex(4)}")
    await watch(transport, settings.fleet, Console(), as_json=as_json)
    return 0


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
