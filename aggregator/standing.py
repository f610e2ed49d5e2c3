"""Where a run stands after the first of its rows: the engine as they leave it, and how each version came about.

Not here: which rows can be proved (`salvage.py`), what a start does with them (`opening.py`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from aggregator.config import Settings
from aggregator.journal_head import Head
from aggregator.journal_rows import record_of
from aggregator.records import CloseRecord, CommitRecord, ConfigRecord, Record
from aggregator.recovery import recover
from aggregator.round_machine import RoundMachine
from aggregator.salvage import Salvage
from shared.errors import ConfigError, InvalidState

__all__ = ["Standing", "records_of"]


@dataclass(slots=True, kw_only=True)
class Standing:
    """A run after some of its rows.

    Args:
        machine: the engine; nothing is ever asked of it.
        end: of the chain of those rows.
        closes: the row of the last CLOSE of each version.
        commits: the COMMIT of each version, with the settings that it was made with.
    """

    machine: RoundMachine
    end: Head = field(default_factory=Head)
    closes: dict[int, int] = field(default_factory=dict)
    commits: dict[int, tuple[CommitRecord, Settings]] = field(default_factory=dict)

    @classmethod
    def of(cls, salvage: Salvage, last_seq: int, where: Path) -> "Standing":
        """Read the first rows of a journal.

        Args:
            salvage: of it.
            last_seq: of the last row that is read.
            where: it lies.

        Raises:
            ConfigError: these rows are no run's, or of another version of FedMQ.
        """
        try:
            configs = [record for _, record in records_of(salvage, last_seq) if isinstance(record, ConfigRecord)]
            if not configs:
                raise ConfigError(f"the first {last_seq} rows hold no settings of a run", where=str(where))
            settings = _parsed(configs[-1])
            standing = cls(machine=RoundMachine(settings, max_bytes=1, lease_prefix="repair"))
            recover(standing.machine, standing._noted(salvage, last_seq), None, now=0.0, wall_s=0.0)
        except (InvalidState, ValueError, ValidationError) as error:
            raise ConfigError(f"its rows are not those of this version of FedMQ: {error}", where=str(where)) from error
        return standing

    def _noted(self, salvage: Salvage, last_seq: int) -> Iterator[Record]:
        settings = self.machine.settings
        for end, record in records_of(salvage, last_seq):
            self.end = end
            match record:
                case ConfigRecord():
                    settings = _parsed(record)
                case CloseRecord(into=into):
                    self.closes[into] = end.seq
                case CommitRecord(version=version):
                    self.commits[version] = record, settings
            yield record


def records_of(salvage: Salvage, last_seq: int) -> Iterator[tuple[Head, Record]]:
    """Yield the first records of a journal, each with the end of the chain after it."""
    for each in salvage.rows():
        if each.end.seq > last_seq:
            return
        yield each.end, record_of(each.row)


def _parsed(record: ConfigRecord) -> Settings:
    return Settings.model_validate(json.loads(record.settings))
