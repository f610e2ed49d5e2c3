"""What passes a device's wire is written down before the device hears of it, and survives a kill."""

import asyncio
from pathlib import Path

from broker.simulated import SimulatedBroker
from shared.messages import Action, Control, Outcome, Receipt, Report, Reported, RetryWindow
from shared.topics import ControlTopic, ReceiptTopic, ReportTopic, Topics
from shared.wire import encode
from simulator.torture_notes import Note, Notebook, NotingTransport, What, read_notes

TOPICS = Topics("torture")
LEASE = "a" * 32


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    """In their order; file after file."""
    notes = [Note(what=What.BORN, device="d1"), Note(what=What.OFFERED, device="d1", lease=LEASE, sha256="b" * 64)]
    book = Notebook(tmp_path / "0.jsonl")
    for note in notes:
        book.write(note)
    book.produced("d1", round_id=3, number=5, sha256="c" * 64)
    book.close()
    trained = Note(what=What.TRAINED, device="d1", round_id=3, number=5, sha256="c" * 64)
    assert list(read_notes([tmp_path / "0.jsonl"])) == [*notes, trained]


def test_line_that_a_kill_has_torn_is_left_out(tmp_path: Path) -> None:
    """And the next life's first line does not become part of it."""
    path = tmp_path / "0.jsonl"
    path.write_bytes(b'{"what": "born", "device": "d1"}\n{"what": "offe')
    book = Notebook(path)
    book.write(Note(what=What.BORN, device="d2"))
    book.close()
    assert [note.device for note in read_notes([path])] == ["d1", "d2"]


async def test_offers_and_outcomes_are_taken_down_as_they_pass(tmp_path: Path) -> None:
    """A report on its way up, a final receipt, a cancel and a busy on their way down; nothing else."""
    broker, book = SimulatedBroker(seed=1), Notebook(tmp_path / "0.jsonl")
    transport = NotingTransport(broker.transport("d1"), "d1", TOPICS, book)
    report = Report(
        lease=LEASE,
        run="r",
        outcome=Reported.TRAINED,
        codec="float32",
        num_examples=3,
        size=9000,
        sha256="0" * 64,
        chunk_bytes=4096,
    )
    receipts = [
        Receipt(epoch=1, lease=LEASE, run="r", outcome=Outcome.BUSY, retry_s=RetryWindow(min=1, max=2)),
        Receipt(epoch=1, lease=LEASE, run="r", outcome=Outcome.NEED, need=[(0, 2)]),
        Receipt(epoch=1, lease=LEASE, run="r", outcome=Outcome.ACCEPTED),
    ]
    cancel = Control(epoch=1, action=Action.CANCEL, lease="b" * 32)
    async with transport.connect() as device, broker.transport("a").connect() as aggregator:
        await device.subscribe(TOPICS.to_device("d1"))
        await device.publish(TOPICS.build(ReportTopic("d1", LEASE)), encode(report))
        for receipt in receipts:
            await aggregator.publish(TOPICS.build(ReceiptTopic("d1")), encode(receipt))
        await aggregator.publish(TOPICS.build(ControlTopic("d1")), encode(cancel))
        messages = device.messages()
        async with asyncio.timeout(5):
            for _ in range(4):
                await anext(messages)
    book.close()
    assert [(note.what, note.lease, note.outcome) for note in read_notes([tmp_path / "0.jsonl"])] == [
        (What.OFFERED, LEASE, ""),
        (What.BUSY, LEASE, ""),
        (What.FINAL, LEASE, "accepted"),
        (What.FINAL, "b" * 32, "cancelled"),
    ]
