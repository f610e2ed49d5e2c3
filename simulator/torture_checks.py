"""Is every update counted exactly once? The journal's rows against what the devices wrote down.

It reads the journal with a query of its own, not with the aggregator's code, and believes neither side: a promise is
kept when both tell the same story. Everything is dead when it looks.

Not here: the model that the rows must yield (`torture_model.py`).
"""

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.torture_notes import Note, What

__all__ = ["Held", "Row", "Verdict", "judge", "read_rows"]

ACCEPTED = "accepted"
HARMLESS = frozenset({"discarded", "cancelled"})
"""What may become of a good update beside being counted: it came too late for its round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the journal.

    Args:
        seq: its number.
        kind: what it is.
        lease: which, None for rows about none.
        body: its fields.
        data: an inline update.
    """

    seq: int
    kind: str
    lease: str | None
    body: Mapping[str, Any]
    data: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An update that lies in the outbox of a device.

    Args:
        device: whose.
        lease: under which.
        sha256: as its own header says; "" for a report without an update.
    """

    device: str
    lease: str
    sha256: str


@dataclass(slots=True)
class Verdict:
    """What the checker found.

    Args:
        violations: broken promises, in words.
        updates: that were durable at a device.
        accepted: ACCEPT rows.
        receipts: final outcomes that reached a device.
        versions: committed.
        outcomes: updates by what became of them.
    """

    violations: list[str] = field(default_factory=list)
    updates: int = 0
    accepted: int = 0
    receipts: int = 0
    versions: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


def read_rows(journal: Path) -> list[Row]:
    """Return all rows of a journal, in order."""
    with closing(sqlite3.connect(journal)) as connection:
        found = connection.execute("SELECT seq, kind, lease, body, data FROM journal ORDER BY seq").fetchall()
    return [
        Row(seq=seq, kind=kind, lease=lease, body=json.loads(body), data=data) for seq, kind, lease, body, data in found
    ]


def judge(rows: Sequence[Row], notes: Iterable[Note], held: Iterable[Held]) -> Verdict:
    """Hold rows, notes and outboxes against each other.

    Args:
        rows: of the journal, in order.
        notes: of all devices, each device's in order.
        held: by the outboxes of all devices.
    """
    verdict = Verdict()
    books = _Books.of(rows)
    verdict.violations += _within_the_journal(rows, books)
    by_device: dict[str, list[Note]] = defaultdict(list)
    for note in notes:
        by_device[note.device].append(note)
    outboxes: dict[str, dict[str, str]] = defaultdict(dict)
    for each in held:
        outboxes[each.device][each.lease] = each.sha256
    known: dict[str, str] = {}
    for device in sorted({*by_device, *outboxes}):
        story = _Story.of(device, by_device[device], outboxes[device])
        for lease, sha256 in story.updates.items():
            known[lease] = sha256
        verdict.violations += _of_one_device(story, books)
        verdict.updates += len(story.updates)
        verdict.receipts += story.n_receipts
        verdict.outcomes += Counter(_what_became(lease, story, books) for lease in story.updates)
    for lease, row in books.accepts.items():
        if lease not in known:
            verdict.violations.append(f"row {row.seq} accepts lease {lease}, for which no device ever had an update")
    verdict.accepted = len(books.accepts)
    verdict.versions = sum(row.kind == "commit" for row in rows)
    return verdict


@dataclass(slots=True)
class _Books:
    """The journal, by lease."""

    leases: dict[str, Row] = field(default_factory=dict)
    accepts: dict[str, Row] = field(default_factory=dict)
    outcomes: dict[str, Row] = field(default_factory=dict)
    is_finished: bool = False

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Books":
        books = cls()
        for row in rows:
            match row.kind:
                case "lease":
                    books.leases[_lease_of(row)] = row
                case "accept":
                    books.accepts.setdefault(_lease_of(row), row)
                case "outcome":
                    books.outcomes[_lease_of(row)] = row
                case "finish":
                    books.is_finished = True
        return books

    def outcome(self, lease: str) -> str | None:
        """Return the final outcome of a lease; None: it is open."""
        if lease in self.accepts:
            return ACCEPTED
        row = self.outcomes.get(lease)
        return None if row is None else str(row.body["outcome"])


@dataclass(slots=True)
class _Story:
    """What one device says."""

    device: str
    updates: dict[str, str] = field(default_factory=dict)  # lease -> sha256, of those that were durable
    finals: dict[str, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    outbox: Mapping[str, str] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)  # sha256 -> what excuses that nobody heard of it; "": nothing
    contradictions: list[str] = field(default_factory=list)
    n_receipts: int = 0

    @classmethod
    def of(cls, device: str, notes: Sequence[Note], outbox: Mapping[str, str]) -> "_Story":
        story = cls(device, outbox=outbox)
        waiting: str | None = None  # trained and, as far as is known, not stored yet
        lease_of_round: dict[int, str] = {}
        ended: dict[str, str] = {}  # sha256 -> lease it was trained under
        for note in notes:
            match note.what:
                case What.BORN if waiting is not None:
                    story.trained[waiting], waiting = "killed before it was stored", None
                case What.ASSIGNED:
                    lease_of_round.pop(note.round_id, None)  # the newest stands last
                    lease_of_round[note.round_id] = note.lease
                    if waiting is not None:  # newer work came while it was being stored
                        story.trained[waiting] = "given up for newer work"
                case What.TRAINED:
                    waiting = note.sha256
                    is_newest = note.round_id == next(reversed(lease_of_round), note.round_id)
                    story.trained[waiting] = "" if is_newest else "given up for newer work"
                    ended[waiting] = lease_of_round.get(note.round_id, "")
                case What.OFFERED:
                    story._offered(note)
                    if waiting == note.sha256:
                        waiting = None
                case What.FINAL:
                    story.n_receipts += 1
                    story.finals[note.lease].add((note.outcome, note.reason))
                case _:
                    pass
        if waiting is not None:
            story.trained[waiting] = "killed before it was stored"
        for sha256, lease in ended.items():
            if lease in story.finals and not story.trained[sha256]:
                story.trained[sha256] = "its lease had ended"
        story.updates |= {lease: sha256 for lease, sha256 in outbox.items() if sha256}
        return story

    def _offered(self, note: Note) -> None:
        before = self.updates.setdefault(note.lease, note.sha256)
        if before != note.sha256:
            self.contradictions.append(f"{self.device} offered two updates under lease {note.lease}")


def _within_the_journal(rows: Sequence[Row], books: _Books) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if row.seq != number:
            yield f"row {number} of the journal is missing"
            return
    n_finals = Counter(row.lease for row in rows if row.kind in ("accept", "outcome"))
    yield from (f"lease {lease} has {count} final outcomes" for lease, count in n_finals.items() if count > 1)
    bases: dict[tuple[str, int], int] = {}
    hashes: dict[str, int] = {}
    closed = 0
    for row in rows:
        if row.kind == "close":
            closed = max(closed, row.body["into"])
        if row.kind != "accept":
            continue
        body, lease = row.body, books.leases.get(_lease_of(row))
        if lease is None or lease.seq > row.seq:
            yield f"row {row.seq} accepts lease {row.lease}, which was never issued before it"
        elif any(lease.body[name] != body[name] for name in ("device", "base_version")):
            yield f"row {row.seq} is not of the device and base version that lease {row.lease} was issued for"
        if (first := bases.setdefault((body["device"], body["base_version"]), row.seq)) != row.seq:
            yield f"rows {first} and {row.seq} both count {body['device']} for base version {body['base_version']}"
        if (first := hashes.setdefault(body["sha256"], row.seq)) != row.seq:
            yield f"rows {first} and {row.seq} count the same update {body['sha256']}"
        if body["into"] <= closed:
            yield f"row {row.seq} counts for version {body['into']}, which was closed before it"
        if row.data is not None and hashlib.sha256(row.data).hexdigest() != body["sha256"]:
            yield f"row {row.seq} holds other bytes than its sha256 says"


def _of_one_device(story: _Story, books: _Books) -> Iterator[str]:
    device = story.device
    yield from story.contradictions
    for lease, finals in story.finals.items():
        outcomes = {outcome for outcome, _ in finals}
        journalled = books.outcome(lease)
        if outcomes != {journalled}:
            yield f"{device} was told {sorted(outcomes)} of lease {lease}; the journal says {journalled}"
        if ACCEPTED in outcomes and lease not in story.updates:
            yield f"{device} was told that lease {lease} is accepted, and never had an update for it"
    for lease, sha256 in story.updates.items():
        issued, accept = books.leases.get(lease), books.accepts.get(lease)
        if issued is None or issued.body["device"] != device:
            yield f"{device} has an update under lease {lease}, which the journal does not know as its own"
        if accept is not None and accept.body["sha256"] != sha256:
            yield f"row {accept.seq} accepts lease {lease} with other bytes than {device} offered"
        if (became := _what_became(lease, story, books)).startswith("LOST"):
            yield f"{device}: update {sha256} under lease {lease}: {became}"
        outcome = books.outcome(lease)
        if outcome not in (None, ACCEPTED, *HARMLESS):
            body = books.outcomes[lease].body
            yield f"{device}: a good update under lease {lease} is {outcome}: {body.get('reason')} {body.get('detail')}"
    stored = set(story.updates.values())
    for sha256, excuse in story.trained.items():
        if sha256 not in stored and not excuse:
            yield f"{device} trained {sha256}, lived on, and neither offered nor kept it"


def _what_became(lease: str, story: _Story, books: _Books) -> str:
    """Return where an update is; LOST when neither side has it any more."""
    outcome = books.outcome(lease)
    heard = lease in story.finals
    if outcome is not None:
        row = books.outcomes.get(lease)
        reason = row.body.get("reason") if row is not None else None
        where = "" if heard else (", device still asks" if lease in story.outbox else ", device gave it up")
        if not heard and lease not in story.outbox and not books.is_finished:
            return f"LOST: {outcome} in the journal, but its device forgot it before it was told"
        return f"{outcome}{f' ({reason})' if reason else ''}{where}"
    if lease in story.outbox:
        return "still in an outbox"
    return "LOST: no outcome, and in no outbox"


def _lease_of(row: Row) -> str:
    return row.lease or str(row.body["lease"])
