"""Keeps the timelines of leases while a run is served, and appends them to `timeline.jsonl` in batches.

Not here: what is noted (`lease_timelines.py`), what it explains (`explanation.py`).
"""

from collections.abc import Callable, Sequence
from functools import partial

from aggregator.commands import Command, Finish, Journal, RoundEnded
from aggregator.events import Event
from aggregator.json_lines import append_lines, cut_torn_line
from aggregator.lease_timelines import LeaseTimelines
from aggregator.opening import OpenRun
from aggregator.phases import Phase
from aggregator.records import FinishRecord
from aggregator.timeline_lines import TimelineLine, as_entry
from shared.messages import Kind

__all__ = ["Timekeeping"]

MOST_LINES = 500
"""That wait before they are written."""
WRITE_EVERY_S = 5.0
"""So long a line waits at most while events come; a process that is killed loses no more than that."""


class Timekeeping:
    """Follows one run.

    Args:
        opened: the run.
        put_blocking: queues work for the lane DISK.
        wall: Unix time.
        now: seconds, the clock of the round machine.
    """

    def __init__(
        self,
        opened: OpenRun,
        *,
        put_blocking: Callable[[Callable[[], None]], None],
        wall: Callable[[], float],
        now: float,
    ) -> None:
        self._machine, self._path, self._put_blocking = opened.machine, opened.folder.timeline, put_blocking
        self._timelines = LeaseTimelines(wall() - now)
        self._written_at = now
        if self._path.exists():
            put_blocking(partial(cut_torn_line, self._path))

    def begin(self, now: float) -> None:
        """The run is served from now on; call it before the machine's first commands."""
        machine = self._machine
        leases = [lease.record for lease in machine.leases.open(Kind.TRAIN)]
        is_between = machine.phase in (Phase.WAITING, Phase.FINISHED)
        self._timelines.start(leases, machine.round_id, now, is_between=is_between)

    def note(self, event: Event | None, commands: Sequence[Command], now: float) -> None:
        """Take what the round machine was told, None at its start, and what it answered."""
        timelines = self._timelines
        if event is not None:
            timelines.heard(event, now)
        is_over = False
        if commands:
            timelines.decided(commands, now)
            is_over = any(_ends_a_round(command) for command in commands)
        if is_over:
            timelines.counted(self._machine.population.by_class())
        is_news = timelines.stands_still(self._machine.pausing.causes, now)  # perhaps nothing happens for long
        n_lines = timelines.n_lines
        if n_lines and (is_over or is_news or n_lines >= MOST_LINES or now - self._written_at >= WRITE_EVERY_S):
            self._written_at = now
            self._put_blocking(partial(self._write, timelines.take()))

    def _write(self, lines: Sequence[TimelineLine]) -> None:
        append_lines(self._path, map(as_entry, lines))


def _ends_a_round(command: Command) -> bool:
    return isinstance(command, RoundEnded | Finish) or (
        isinstance(command, Journal) and isinstance(command.record, FinishRecord)
    )
