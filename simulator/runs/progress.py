"""How a simulation goes, on a terminal or line by line: virtual time, round, metric, devices, and how fast.

Not here: what came of it (`report.py`).
"""

from rich.console import Console
from rich.live import Live
from rich.text import Text

from aggregator.config import StopSettings
from simulator.runs.report import clock_text
from simulator.runs.simulation import Moment
from simulator.runs.waiting import why_nobody_starts

__all__ = ["Progress"]

LINE_EVERY_S = 5.0
"""Real seconds between two lines where there is no terminal."""


class Progress:
    """Shows moments. To be used as a context.

    Args:
        stop: when the run is finished: the metric, and what the remaining time is guessed from.
        virtual_limit_s: after which it ends in any case.
        is_live: whether a terminal may be drawn on.
        is_silent: nothing is shown, for what is printed in the end is for a program.
        console: where it goes.
    """

    def __init__(
        self,
        stop: StopSettings,
        virtual_limit_s: float,
        *,
        is_live: bool = True,
        is_silent: bool = False,
        console: Console | None = None,
    ) -> None:
        self._stop, self._limit_s, self._is_silent = stop, virtual_limit_s, is_silent
        self._console = console or Console(force_terminal=None if is_live else False)
        self._live: Live | None = None
        if self._console.is_terminal and not is_silent:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._said_at = 0.0
        self._before: Moment | None = None

    def __enter__(self) -> "Progress":
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Show a line, above what is drawn."""
        if not self._is_silent:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, moment: Moment) -> None:
        """Show how it goes."""
        if self._is_silent:
            return
        line = self.line(moment)
        if self._live is not None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif moment.wall_s - self._said_at >= LINE_EVERY_S:
            self._said_at = moment.wall_s
            self.say(line)

    def line(self, moment: Moment) -> str:
        """Return it in one line."""
        before, self._before = self._before, moment
        since_s = moment.wall_s - (before.wall_s if before else 0.0)
        events = (moment.n_events - (before.n_events if before else 0)) / max(since_s, 1e-9)
        parts = [clock_text(moment.at_s)]
        status = moment.status
        if status is not None:
            of = f" of {self._stop.rounds}" if self._stop.rounds else ""
            parts.append(f"round {status.round}{of}, version {status.version}")
            if self._stop.metric in status.metrics:
                parts.append(f"{self._stop.metric} {status.metrics[self._stop.metric]:.4f}")
            parts += [f"{n} {how}" for how in ("rejected", "failed") if (n := status.states.get(how, 0))]
            if (why := why_nobody_starts(status)) is not None:
                parts.append(f"waits: {why}")
        parts += [f"{moment.n_on} of {moment.n_devices} on", f"{moment.n_fits} fits", f"{events:,.0f} timers/s"]
        left_s = self._left_s(moment)
        if left_s is not None:
            parts.append(f"at most {clock_text(left_s)} left")
        return "  ".join(parts)

    def _left_s(self, moment: Moment) -> float | None:
        """Return the real seconds until the last round at the pace so far; None: no round has ended."""
        version = 0 if moment.status is None else moment.status.version
        if not (self._stop.rounds and version):
            return None
        return moment.wall_s * (self._stop.rounds - version) / version
