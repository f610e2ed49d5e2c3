"""Rows to the journal, as many as wait at a time, and behind each what had to wait for it.

A word about a lease that stands alone repeats what was decided a moment ago: it waits for every row before it, for a
device that has heard an outcome forgets the update.

Not here: the file (`journal.py`), what rows say (`records.py`).
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import structlog

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.journal import Journal
from aggregator.records import Record
from aggregator.summing_up import Failures
from shared.errors import ConfigError

__all__ = ["RowWriter"]

log = structlog.get_logger(__name__)

AGAIN_S = 1.0
"""Between two attempts at a journal that cannot be written."""

_Waiting: TypeAlias = cmd.Journal | cmd.Assign | cmd.SendReceipt


class RowWriter:
    """One writer, so that what is told is told in the order in which it became true.

    Args:
        journal: open.
        tell: takes events for the round machine.
        execute: carries out a command whose row is durable.
    """

    def __init__(
        self, journal: Journal, *, tell: Callable[[ev.Event], None], execute: Callable[[cmd.Command], None]
    ) -> None:
        self._journal, self._tell, self._execute = journal, tell, execute
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    def put(self, command: cmd.Command) -> bool:
        """Take a command that is, or has to wait for, a row; return False for any other."""
        match command:
            case cmd.Journal() | cmd.Assign():
                self._waiting.put_nowait(command)
            case cmd.SendReceipt(outcome=outcome) if outcome.is_final:
                self._waiting.put_nowait(command)
            case _:
                return False
        return True

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            if records := [each.record for each in batch if isinstance(each, cmd.Journal)]:
                await self._append(records)
            for each in batch:
                for command in each.then if isinstance(each, cmd.Journal) else (each,):
                    self._execute(command)

    async def _append(self, records: list[Record]) -> None:
        failures = Failures()
        while True:
            try:
                await self._journal.append(*records)
            except ConfigError as error:  # the records stay first in line
                if times := failures.failed(asyncio.get_running_loop().time()):
                    log.error("journal_failed", error=str(error), times=times, next_try_in_s=AGAIN_S)
                self._tell(ev.DiskLow())
                records = []
                await asyncio.sleep(AGAIN_S)
            else:
                if times := failures.went_well():
                    log.info("journal_written_again", after_failures=times)
                return
