"""A small run in which every promise is kept: rows, notes and outboxes that tell one story, to be doctored by tests."""

from dataclasses import dataclass, field, replace
from typing import Any

from simulator.torture_checks import Held, Row
from simulator.torture_notes import Note, What
from simulator.torture_task import sha256_of, vector_of, weight_of

__all__ = ["NUMBERS", "N_PARAMS", "Story", "a_story", "an_accept", "lease"]

N_PARAMS = 16
NUMBERS = (1001, 1002, 1003, 1004)
"""Of the updates of d1 … d4; the first three count for version 1, the fourth is still in its outbox."""


@dataclass(slots=True)
class Story:
    """What is left after a run. Tests change it."""

    rows: list[Row]
    notes: list[Note]
    held: list[Held] = field(default_factory=list)

    def drop(self, seq: int) -> None:
        """Take a row out, and number the others anew, as if it had never been written."""
        kept = [row for row in self.rows if row.seq != seq]
        self.rows = [replace(row, seq=number) for number, row in enumerate(kept, start=1)]

    def add(self, kind: str, lease: str | None, data: bytes | None = None, **body: Any) -> None:
        """Append a row."""
        self.rows.append(Row(seq=len(self.rows) + 1, kind=kind, lease=lease, body=body, data=data))

    def change(self, seq: int, **body: Any) -> None:
        """Change fields of a row."""
        row = self.rows[seq - 1]
        self.rows[seq - 1] = replace(row, body={**row.body, **body})

    def note(self, what: What, device: str, **fields: Any) -> None:
        """Append a note."""
        self.notes.append(Note(what=what, device=device, **fields))


def lease(number: int) -> str:
    """Return the lease under which the nth device works."""
    return f"{number:032x}"


def an_accept(number: int, device: int, into: int = 1) -> dict[str, Any]:
    """Return the fields of the ACCEPT of an update."""
    return {
        "seq": device,
        "device": f"d{device}",
        "base_version": into - 1,
        "into": into,
        "weight": float(weight_of(number)),
        "num_examples": weight_of(number),
        "clip_scale": 1.0,
        "discount": 1.0,
        "sha256": sha256_of(number, N_PARAMS),
    }


def a_story() -> Story:
    """Return a story of four leases: three accepted, one still open."""
    story = Story([], [])
    for device, number in enumerate(NUMBERS, start=1):
        name, sha256 = lease(device), sha256_of(number, N_PARAMS)
        story.add("lease", name, device=f"d{device}", base_version=0)
        story.note(What.BORN, f"d{device}")
        story.note(What.ASSIGNED, f"d{device}", lease=name, round_id=1)
        story.note(What.TRAINED, f"d{device}", round_id=1, number=number, sha256=sha256)
        story.note(What.OFFERED, f"d{device}", lease=name, sha256=sha256)
    for device, number in enumerate(NUMBERS[:3], start=1):  # rows 5, 6, 7
        data = vector_of(number, N_PARAMS).tobytes() if device == 1 else None  # the others came in chunks
        story.add("accept", lease(device), data, **an_accept(number, device))
        story.note(What.FINAL, f"d{device}", lease=lease(device), outcome="accepted")
    story.add("close", None, into=1, last_seq=3)
    story.held.append(Held(device="d4", lease=lease(4), sha256=sha256_of(NUMBERS[3], N_PARAMS)))
    return story
