"""Where a run stands after the first of its rows: the engine as they leave it, and how each version came about.

Not here: which rows can be proved (`salvage.py`), what a start does with them (`opening.py`).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from aggregator.config import Settings
from aggregator.journal_head import Head
from aggregator.journal_rows import ChainedRow, record_of
from aggregator.records import CloseRecord, CommitRecord, ConfigRecord, Record
from aggregator.recovery import recover
from aggregator.round_machine import RoundMachine
from shared.codecs import CODECS
from shared.errors import ConfigError, InvalidState

__all__ = ["Standing"]


@dataclass(slots=True, kw_only=True)
class Standing:
    """A run after some of its rows.

    Args:
        rows: that were read, once more.
        machine: the engine; nothing is ever asked of it.
        end: of the chain of those rows.
        closes: the row of the last CLOSE of each version.
        commits: the COMMIT of each version, with the settings that it was made with.
    """

    rows: Callable[[], Iterator[ChainedRow]]
    machine: RoundMachine
    end: Head = field(default_factory=Head)
    closes: dict[int, int] = field(default_factory=dict)
    commits: dict[int, tuple[CommitRecord, Settings]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Callable[[], Iterator[ChainedRow]], where: Path) -> "Standing":
        """Read the first rows of a journal.

        Args:
            rows: yields them, as often as it is called.
            where: the journal lies.

        Raises:
            ConfigError: these rows are no run's, or of another version of FedMQ.
        """
        try:
            configs = [record for each in rows() if isinstance(record := record_of(each.row), ConfigRecord)]
            if not configs:
                raise ConfigError("the rows that can be read hold no settings of a run", where=str(where))
            settings = _parsed(configs[-1])
            standing = cls(
                rows=rows, machine=RoundMachine(settings, update_bytes=dict.fromkeys(CODECS, 1), lease_prefix="repair")
            )
            recover(standing.machine, standing._noted(), None, now=0.0, wall_s=0.0)
        except (InvalidState, ValueError, ValidationError) as error:
            raise ConfigError(f"its rows are not those of this version of FedMQ: {error}", where=str(where)) from error
        return standing

    def records(self) -> Iterator[tuple[Head, Record]]:
        """Yield the records of its rows, each with the end of the chain after it."""
        for each in self.rows():
            yield each.end, record_of(each.row)

    def _noted(self) -> Iterator[Record]:
        settings = self.machine.settings
        for end, record in self.records():
            self.end = end
            match record:
                case ConfigRecord():
                    settings = _parsed(record)
                case CloseRecord(into=into):
                    self.closes[into] = end.seq
                case CommitRecord(version=version):
                    self.commits[version] = record, settings
            yield record


def _parsed(record: ConfigRecord) -> Settings:
    return Settings.model_validate(json.loads(record.settings))
