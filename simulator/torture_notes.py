"""What each device of the torture writes down for itself, and what its wire says: the checker's second witness.

Lines of JSON in a file of the process, each written by one `write` call: what was written before a SIGKILL is there,
but for a last line that may be torn. A `NotingTransport` stands between a device and its real transport and takes down
assignments, offers and outcomes as they pass, in the device's own order and before the device hears of them.

Not here: what the notes must add up to (`torture_checks.py`).
"""

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from broker.transport import Connection, Message, Transport, Will
from shared.errors import PeerError
from shared.messages import Action, Assignment, Control, Outcome, Receipt, Report, Reported
from shared.topics import AssignmentTopic, ControlTopic, ReceiptTopic, ReportTopic, Topics
from shared.wire import decode

__all__ = ["Note", "Notebook", "NotingTransport", "What", "read_notes"]

MAX_DATA_BYTES = 262_144


class What(StrEnum):
    """What happened at a device."""

    BORN = "born"  # its process has started
    ASSIGNED = "assigned"  # an assignment came
    TRAINED = "trained"  # the task has returned an update
    OFFERED = "offered"  # the update, or the offer of it, was handed to the link
    FINAL = "final"  # a final outcome came
    BUSY = "busy"  # the aggregator asked to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One line.

    Args:
        what: happened.
        device: to whom.
        lease: which, "" where none is known.
        round_id: of an assignment or a training.
        number: of an update.
        sha256: of an update.
        outcome: final.
        reason: of the outcome.
    """

    what: What
    device: str
    lease: str = ""
    round_id: int = 0
    number: int = 0
    sha256: str = ""
    outcome: str = ""
    reason: str = ""


class Notebook:
    """The file of one process. Threads may write to it at the same time.

    Args:
        path: appended to.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.write(self._fd, b"\n")  # after a line that a kill has torn

    def write(self, note: Note) -> None:
        """Append a note; it survives whatever happens to this process from now on."""
        os.write(self._fd, json.dumps({key: value for key, value in asdict(note).items() if value}).encode() + b"\n")

    def produced(self, device: str, *, round_id: int, number: int, sha256: str) -> None:
        """See `torture_task.Produced`."""
        self.write(Note(what=What.TRAINED, device=device, round_id=round_id, number=number, sha256=sha256))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read_notes(paths: Sequence[Path]) -> Iterator[Note]:
    """Yield the notes of some files, file after file; a torn last line is left out."""
    for path in paths:
        for line in path.read_bytes().splitlines():
            try:
                fields = json.loads(line)
                yield Note(**{**fields, "what": What(fields["what"])})
            except (ValueError, TypeError, KeyError):
                continue  # written by a process that was killed in the middle of it


class NotingTransport:
    """A device's transport, with a notebook.

    Args:
        inner: the real one.
        device: whose it is.
        topics: of the fleet.
        notebook: where notes go.
    """

    def __init__(self, inner: Transport, device: str, topics: Topics, notebook: Notebook) -> None:
        self._inner, self._device, self._topics, self._notebook = inner, device, topics, notebook

    @asynccontextmanager
    async def connect(self, *, will: Will | None = None) -> AsyncIterator[Connection]:
        """See `Transport`."""
        async with self._inner.connect(will=will) as connection:
            yield _NotingConnection(connection, self._device, self._topics, self._notebook)


class _NotingConnection:
    def __init__(self, inner: Connection, device: str, topics: Topics, notebook: Notebook) -> None:
        self._inner, self._device, self._topics, self._notebook = inner, device, topics, notebook

    @property
    def max_payload_bytes(self) -> int | None:
        return self._inner.max_payload_bytes

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retained: bool = False) -> None:
        if isinstance(self._topics.parse(topic), ReportTopic):
            report = decode(Report, payload, max_data_bytes=MAX_DATA_BYTES)
            if report.outcome is Reported.TRAINED:
                self._note(What.OFFERED, report.lease, sha256=report.sha256 or "")
        await self._inner.publish(topic, payload, qos=qos, retained=retained)

    async def subscribe(self, topics: Sequence[str], *, qos: int = 1) -> None:
        await self._inner.subscribe(topics, qos=qos)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        await self._inner.unsubscribe(topics)

    async def messages(self) -> AsyncIterator[Message]:
        async for message in self._inner.messages():
            self._came(message)
            yield message

    def _came(self, message: Message) -> None:
        try:
            match self._topics.parse(message.topic):
                case ReceiptTopic():
                    self._receipt(decode(Receipt, message.payload))
                case ControlTopic():
                    control = decode(Control, message.payload)
                    if control.action is Action.CANCEL and control.lease is not None:
                        self._note(
                            What.FINAL, control.lease, outcome=Outcome.CANCELLED, reason=str(control.reason or "")
                        )
                case AssignmentTopic():
                    order = decode(Assignment, message.payload)
                    self._note(What.ASSIGNED, order.lease, round_id=order.round)
                case _:
                    pass
        except PeerError:
            pass  # the device will say so

    def _receipt(self, receipt: Receipt) -> None:
        if receipt.outcome.is_final:
            self._note(What.FINAL, receipt.lease, outcome=receipt.outcome, reason=str(receipt.reason or ""))
        elif receipt.outcome is Outcome.BUSY:
            self._note(What.BUSY, receipt.lease)

    def _note(
        self, what: What, lease: str, *, round_id: int = 0, sha256: str = "", outcome: str = "", reason: str = ""
    ) -> None:
        note = Note(
            what=what,
            device=self._device,
            lease=lease,
            round_id=round_id,
            sha256=sha256,
            outcome=str(outcome),
            reason=reason,
        )
        self._notebook.write(note)
