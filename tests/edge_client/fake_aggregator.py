"""A hand-written aggregator for the tests of a device: publishes one model, gives leases, grants chunks, answers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from broker.simulated import SimulatedBroker
from broker.transport import Connection, Message
from shared.chunking import Bitmap, ChunkLayout, sha256_hex, to_ranges
from shared.codecs import codec_named, decode_vector
from shared.errors import Reason, TransportError
from shared.messages import (
    Action,
    Assignment,
    CheckIn,
    Control,
    Fleet,
    Kind,
    ModelRef,
    Outcome,
    Receipt,
    Report,
    Reported,
    RetryWindow,
    Round,
    RoundState,
    WireMessage,
    WorkOrder,
)
from shared.parameters import ParameterSpec, Vector
from shared.task import Task
from shared.topics import (
    AssignmentTopic,
    CheckInTopic,
    ChunkTopic,
    ControlTopic,
    FleetTopic,
    IndexTopic,
    ModelTopic,
    ReceiptTopic,
    ReportTopic,
    RoundTopic,
    Topics,
)
from shared.wire import ModelIndex, decode, encode, encode_index

RUN = "run-1"


def lease_named(number: int) -> str:
    """Return the lease of that number."""
    return f"{number:032x}"


@dataclass
class Update:
    """What has come under one lease."""

    report: Report
    data: bytearray
    bitmap: Bitmap


@dataclass
class FakeAggregator:
    """Knobs are attributes, what was seen too."""

    broker: SimulatedBroker
    task: Task
    fleet: str = "fleet"
    run: str = RUN
    epoch: int = 1000
    chunk_bytes: int = 4096
    inline_bytes: int = 1024
    check_in_interval_s: float = 30.0
    codec: str = "float32"
    answer_offers: bool = True
    outcome: Outcome = Outcome.ACCEPTED
    receipts_to_lose: int = 0
    busy_answers: int = 0
    chunks_a_grant: int = 4
    refuse: Reason | None = None
    withheld_chunks: set[int] = field(default_factory=set)
    check_ins: list[CheckIn] = field(default_factory=list)
    check_in_times: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    chunks: list[tuple[str, int]] = field(default_factory=list)
    finals: dict[str, Receipt] = field(default_factory=dict)
    deltas: dict[str, Vector] = field(default_factory=dict)
    orders: list[Assignment] = field(default_factory=list)
    on_chunk: Callable[[str, int], None] = lambda lease, index: None
    updates: dict[str, Update] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make version 0 of the model."""
        initial = self.task.initial_parameters(0)
        self.spec = ParameterSpec.of(initial)
        self.set_model(self.spec.flatten(initial.parameters), version=0)
        self.topics = Topics(self.fleet)
        self.connection: Connection | None = None

    def set_model(self, vector: Vector, *, version: int) -> None:
        """Make this the model that assignments name."""
        self.blob = vector.astype("<f4").tobytes()
        layout = ChunkLayout(len(self.blob), self.chunk_bytes)
        pieces = [bytes(layout.cut(self.blob, i)) for i in range(len(layout))]
        index = ModelIndex(
            spec=self.spec,
            size=len(self.blob),
            chunk_bytes=self.chunk_bytes,
            sha256=sha256_hex(self.blob),
            chunks=tuple(sha256(piece).digest() for piece in pieces),
        )
        self.index = encode_index(index)
        self.model = ModelRef(
            version=version,
            digest=sha256_hex(self.index),
            index_bytes=len(self.index),
            chunk_bytes=self.chunk_bytes,
        )

    def order(self, lease: int, **changes: object) -> Assignment:
        """Return an assignment to train the present model."""
        fields: dict[str, object] = {
            "epoch": self.epoch,
            "lease": lease_named(lease),
            "run": self.run,
            "round": 1,
            "kind": Kind.TRAIN,
            "model": self.model,
            "work": WorkOrder(seed=lease, algorithm="fedavg", epochs=1, learning_rate=0.1),
            "codec": self.codec,
            "codec_seed": 0,
            "max_bytes": 10**9,
            "seconds_left": 600.0,
            "status_every_s": 10.0,
        }
        return Assignment.model_validate({**fields, **changes})

    async def serve(self) -> None:
        """Run until cancelled, or until the broker dies."""
        with suppress(TransportError):
            await self._serve()

    async def _serve(self) -> None:
        async with self.broker.transport("aggregator").connect() as connection:
            self.connection = connection
            await connection.subscribe(self.topics.every_device)
            await self.publish_fleet()
            await self.publish_model()
            await self.publish_round(RoundState.OPEN)
            async for message in connection.messages():
                await self._receive(message)

    async def publish_fleet(self) -> None:
        """Say the limits."""
        fleet = Fleet(
            epoch=self.epoch,
            run=self.run,
            chunk_bytes=self.chunk_bytes,
            inline_bytes=self.inline_bytes,
            check_in_interval_s=self.check_in_interval_s,
            reconnect_window_s=1.0,
            codecs=["float32", "float16"],
        )
        await self.send(FleetTopic(), fleet, retained=True)

    async def publish_model(self, *, withheld: bool = True) -> None:
        """Publish chunks and index."""
        assert self.connection is not None
        layout = ChunkLayout(len(self.blob), self.chunk_bytes)
        for i in range(len(layout)):
            if not (withheld and i in self.withheld_chunks):
                topic = self.topics.build(ModelTopic(self.run, self.model.digest, i))
                await self.connection.publish(topic, bytes(layout.cut(self.blob, i)), retained=True)
        pieces = ChunkLayout(len(self.index), self.chunk_bytes)
        for j in range(len(pieces)):
            topic = self.topics.build(IndexTopic(self.run, self.model.digest, j))
            await self.connection.publish(topic, bytes(pieces.cut(self.index, j)), retained=True)

    async def publish_round(self, state: RoundState) -> None:
        """Publish the manifest."""
        manifest = Round(epoch=self.epoch, run=self.run, round=1, state=state, model=self.model, report_goal=1)
        await self.send(RoundTopic(self.run), manifest, retained=True)

    async def send(
        self,
        topic: FleetTopic | RoundTopic | AssignmentTopic | ReceiptTopic | ControlTopic,
        message: WireMessage,
        *,
        retained: bool = False,
    ) -> None:
        """Publish a message."""
        assert self.connection is not None
        await self.connection.publish(self.topics.build(topic), encode(message), retained=retained)

    async def cancel(self, device: str, lease: int) -> None:
        """Cancel a lease."""
        control = Control(epoch=self.epoch, action=Action.CANCEL, lease=lease_named(lease), reason=Reason.COMMITTED)
        await self.send(ControlTopic(device), control)

    async def _receive(self, message: Message) -> None:
        match self.topics.parse(message.topic):
            case CheckInTopic(device):
                await self._on_check_in(device, decode(CheckIn, message.payload))
            case ReportTopic(device, lease):
                await self._on_report(device, lease, decode(Report, message.payload, max_data_bytes=self.inline_bytes))
            case ChunkTopic(device, lease, chunk):
                await self._on_chunk(device, lease, chunk, message.payload)

    async def _on_check_in(self, device: str, check_in: CheckIn) -> None:
        self.check_ins.append(check_in)
        self.check_in_times.append(asyncio.get_running_loop().time())
        if self.refuse is not None:
            retry = RetryWindow(min=14400, max=14400)
            control = Control(epoch=self.epoch, action=Action.COME_BACK, reason=self.refuse, retry_s=retry)
            await self.send(ControlTopic(device), control)
            return
        held = {holding.lease for holding in check_in.holds}
        for lease in held & self.finals.keys():
            await self.send(ReceiptTopic(device), self.finals[lease].model_copy(update={"repeat": True}))
        for order in self.orders:
            if order.lease not in self.finals:
                if order.lease not in held:
                    await self.send(AssignmentTopic(device), order)
                return

    async def _on_report(self, device: str, lease: str, report: Report) -> None:
        self.reports.append(report)
        if not self.answer_offers:
            return
        if self.busy_answers:
            self.busy_answers -= 1
            retry = RetryWindow(min=5, max=6)
            busy = Receipt(epoch=self.epoch, lease=lease, run=self.run, outcome=Outcome.BUSY, retry_s=retry)
            await self.send(ReceiptTopic(device), busy)
        elif lease in self.finals:
            await self.send(ReceiptTopic(device), self.finals[lease].model_copy(update={"repeat": True}))
        elif report.chunk_bytes is None:
            await self.conclude(device, report, report.data)
        else:
            assert report.size is not None
            known = self.updates.get(lease)
            n = len(ChunkLayout(report.size, report.chunk_bytes))
            if known is None or known.bitmap.n != n:
                self.updates[lease] = Update(report, bytearray(report.size), Bitmap(n))
            await self._grant(device, lease)

    async def _grant(self, device: str, lease: str) -> None:
        missing = list(self.updates[lease].bitmap.missing())[: self.chunks_a_grant]
        need = to_ranges(missing, at_most=32)
        receipt = Receipt(epoch=self.epoch, lease=lease, run=self.run, outcome=Outcome.NEED, need=need)
        await self.send(ReceiptTopic(device), receipt)

    async def _on_chunk(self, device: str, lease: str, index: int, payload: bytes) -> None:
        self.chunks.append((lease, index))
        update = self.updates[lease]
        assert update.report.chunk_bytes is not None
        start = index * update.report.chunk_bytes
        update.data[start : start + len(payload)] = payload
        update.bitmap.add(index)
        self.on_chunk(lease, index)
        if update.bitmap.is_full:
            if lease not in self.finals:
                await self.conclude(device, update.report, bytes(update.data))
        elif update.bitmap.n_set % self.chunks_a_grant == 0:
            await self._grant(device, lease)

    async def conclude(self, device: str, report: Report, data: bytes | None) -> None:
        """Accept a report."""
        if data is not None:
            assert sha256_hex(data) == report.sha256
            self.deltas[report.lease] = decode_vector(codec_named(report.codec), data, self.spec.n_params)
        outcome = Outcome.FAILED if report.outcome is Reported.FAILED else self.outcome
        receipt = Receipt(epoch=self.epoch, lease=report.lease, run=report.run, outcome=outcome)
        self.finals[report.lease] = receipt
        if self.receipts_to_lose:
            self.receipts_to_lose -= 1
        else:
            await self.send(ReceiptTopic(device), receipt)

    def add_to_model(self, lease: int) -> None:
        """Make the next version from one update."""
        vector = np.frombuffer(self.blob, "<f4").astype(np.float32) + self.deltas[lease_named(lease)]
        self.set_model(vector, version=self.model.version + 1)
