"""A run whose journal has lost rows in its middle, made ready to go on from its newest version.

Rows before the COMMIT of that version are a record: its model lies whole in a file. Of them the run still needs who
holds a lease and which leases are final, so that nothing counts twice, and what makes the rest consistent. So every row
that can be read stays. In the place of those that are lost stands what they must have said, for the rows after them to
make sense: the lease of an accepted update, the end of a version. And a lease without an outcome that was out before
the last gap is cancelled: its outcome may be what is lost.

Not here: which rows can be read (`salvage.py`), whether the run is whole then (`damage.py`), writing it (`repair.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aggregator.journal_head import Head
from aggregator.journal_rows import ChainedRow, record_of, row_of
from aggregator.records import (
    AcceptRecord,
    CloseRecord,
    CommitRecord,
    LeaseRecord,
    OutcomeRecord,
    Record,
    RoundRecord,
    VoidRecord,
)
from aggregator.salvage import Salvage
from shared.errors import InvalidState, Reason
from shared.messages import Kind, Outcome

__all__ = ["Bridge", "bridge_over"]

_LOST = "its outcome may be among the rows of the journal that were lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The rows of a journal without those that are lost.

    Args:
        lost: rows that cannot be read.
        version: the newest; every lost row lies before its COMMIT.
        written: what stands in the place of a lost row.
        dropped: rows about something of which nothing else is left.
        cancelled: leases whose outcome may be lost.
    """

    lost: tuple[int, ...]
    version: int
    written: Mapping[int, tuple[Record, ...]]
    dropped: frozenset[int]
    cancelled: tuple[LeaseRecord, ...]

    def rows(self, salvage: Salvage) -> Iterator[ChainedRow]:
        """Yield the rows of the journal as it is to be, chained anew.

        Args:
            salvage: the one that this was made for.
        """
        end = Head()
        for seq, row in salvage.around_gaps():
            if row is None:
                there = [row_of(record) for record in self.written.get(seq, ())]
            else:
                there = [] if seq in self.dropped else [row]
            for each in there:
                end = each.chained(end)
                yield ChainedRow(end, each)


def bridge_over(salvage: Salvage) -> Bridge | None:
    """Return how to go on; None when no row is lost, or one after the COMMIT of the newest version."""
    reading = _Reading()
    try:
        for seq, row in salvage.around_gaps():
            if row is None:
                reading.gaps.append(seq)
            else:
                reading.take(seq, record_of(row))
    except InvalidState:
        return None
    return reading.bridge()


class _Reading:
    """One pass over the rows that can be read."""

    def __init__(self) -> None:
        self.gaps: list[int] = []
        self._n_gaps_committed = 0  # before the last COMMIT
        self._written: dict[int, list[Record]] = {}
        self._dropped: set[int] = set()
        self._version = self._round_id = self._last_seq = 0
        self._is_closed = False
        self._open: dict[str, tuple[int, LeaseRecord]] = {}  # without an outcome, and the row of each
        self._waiting: dict[str, int] = {}  # accepted -> the version it counts for, not yet made

    def take(self, seq: int, record: Record) -> None:
        """Read the next row.

        Raises:
            InvalidState: it does not fit what stands before it, and nothing is lost there.
        """
        match record:
            case LeaseRecord(base_version=version) | AcceptRecord(base_version=version):
                self._reach(version)
            case RoundRecord(into=into) | CloseRecord(into=into) | CommitRecord(version=into):
                self._reach(into - 1)
            case _:
                pass
        match record:
            case RoundRecord(round_id=round_id):
                self._round_id = round_id
            case LeaseRecord():
                self._enter_round(record.round_id)
                self._open[record.lease] = seq, record
            case AcceptRecord():
                self._enter_round(record.round_id)
                self._accept(record)
            case OutcomeRecord(lease=lease):
                if self._open.pop(lease, None) is None:
                    self._dropped.add(seq)
            case VoidRecord(into=into, lease=str(lease)):
                if self._waiting.pop(lease, None) is None:
                    self._dropped.add(seq)
                self._is_closed = self._is_closed and into != self._version + 1
            case VoidRecord(into=into):
                self._waiting = {lease: its for lease, its in self._waiting.items() if its != into}
                self._is_closed = False
            case CloseRecord():
                self._is_closed = True
            case CommitRecord():
                self._enter_round(record.round_id)
                self._commit(record.version)
                self._n_gaps_committed = len(self.gaps)
            case _:
                pass

    def bridge(self) -> Bridge | None:
        """Return what was found, once every row is read."""
        if not self.gaps or self._n_gaps_committed < len(self.gaps):
            return None
        last = self.gaps[-1]
        cancelled = tuple(record for seq, record in self._open.values() if seq < last)
        for each in cancelled:
            record = OutcomeRecord(lease=each.lease, outcome=Outcome.CANCELLED, reason=Reason.OPERATOR, detail=_LOST)
            self._write(record)
        return Bridge(
            lost=tuple(self.gaps),
            version=self._version,
            written={seq: tuple(records) for seq, records in self._written.items()},
            dropped=frozenset(self._dropped),
            cancelled=cancelled,
        )

    def _accept(self, record: AcceptRecord) -> None:
        if self._open.pop(record.lease, None) is None:
            lease = LeaseRecord(
                lease=record.lease,
                device=record.device,
                round_id=record.round_id,
                kind=Kind.TRAIN,
                base_version=record.base_version,
                codec=record.codec,
                max_bytes=record.size,
            )
            self._write(lease)
        self._waiting[record.lease], self._last_seq = record.into, record.seq

    def _reach(self, version: int) -> None:
        """Write the ends of versions that are lost, up to one that there was."""
        while self._version < version:
            self._commit(self._version + 1)
            self._write(CommitRecord(version=self._version, round_id=self._round_id, digest=""))

    def _enter_round(self, round_id: int) -> None:
        if round_id > self._round_id:
            self._write(RoundRecord(round_id=round_id, into=self._version + 1))
            self._round_id = round_id

    def _commit(self, version: int) -> None:
        if not self._is_closed:
            self._write(CloseRecord(into=version, last_seq=self._last_seq))
        self._version, self._is_closed = version, False
        self._waiting = {lease: into for lease, into in self._waiting.items() if into > version}

    def _write(self, record: Record) -> None:
        if not self.gaps:
            raise InvalidState(f"{record} is missing, and no row is lost")
        self._written.setdefault(self.gaps[-1], []).append(record)
