"""What a rehearsal shows: lines of its own, and below them the live table of `aggregator watch`."""

from rich.console import Console

from aggregator.watch import watch
from broker.transport import Transport

__all__ = ["View"]


class View:
    """Standard output.

    Args:
        fleet: whose table.
        is_live: False: a line a change even on a terminal.
        is_silent: nothing is shown, for what is printed in the end is for a program.
    """

    def __init__(self, fleet: str, *, is_live: bool, is_silent: bool) -> None:
        self._fleet, self._is_silent = fleet, is_silent
        self._console = Console(force_terminal=None if is_live else False)

    def say(self, line: str) -> None:
        """Show a line; above the table, when there is one."""
        if not self._is_silent:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    async def watch(self, transport: Transport) -> None:
        """Show the run until it is finished."""
        if not self._is_silent:
            await watch(transport, self._fleet, self._console)
