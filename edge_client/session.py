"""One connection from its first subscription to its end: what comes in becomes events, what goes out waits its turn.

A new connection gets a new object: nothing that was asked for or granted on one link is believed on the next.

Not here: opening links (`service.py`), deciding (`participant_machine.py`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import structlog

from broker.transport import Connection, Message
from edge_client import events
from edge_client.device_work import DeviceWork
from edge_client.downloading import Download
from edge_client.events import Event
from edge_client.outgoing import Outgoing, Send
from edge_client.upload import LinkPace
from edge_client.uploading import Uploads
from shared.blocking import Lane
from shared.chunking import ChunkLayout
from shared.errors import PeerError, Reason, TransportError
from shared.messages import Assignment, Control, Fleet, ModelRef, Receipt, Report, Reported, Round
from shared.task_groups import rethrow, spawn
from shared.topics import (
    AssignmentTopic,
    ControlTopic,
    FleetTopic,
    IndexTopic,
    ModelTopic,
    ReceiptTopic,
    ReportTopic,
    RoundTopic,
    Topics,
)
from shared.wire import decode, encode

__all__ = ["Session"]

REPORT_BYTES = 4096
"""What a report may have beside its data."""
_SPEC = "spec"  # the download that only explains


class _Over(Exception):
    """The device is to leave; ends the tasks of a connection."""


# All devices of a process are told the same: what one has decoded, no other need decode again.
_fleet_of = lru_cache(4)(partial(decode, Fleet))
_round_of = lru_cache(4)(partial(decode, Round))


class Session:
    """One connection.

    Args:
        device: who we are.
        connection: the link.
        topics: of the fleet.
        work: has reports and models.
        pace: what is known of this link.
        limits: of the fleet; None until they are known.
        chunk_patience_s: seconds without any chunk after which they are asked for again.
        tell: takes what has happened.
        progressed: called when something of worth came or went.
    """

    def __init__(
        self,
        device: str,
        connection: Connection,
        topics: Topics,
        work: DeviceWork,
        pace: LinkPace,
        *,
        limits: Callable[[], Fleet | None],
        chunk_patience_s: float,
        tell: Callable[[Event], None],
        progressed: Callable[[], None],
    ) -> None:
        self._device, self._connection, self._topics, self._work, self._pace = device, connection, topics, work, pace
        self._limits, self._chunk_patience_s = limits, chunk_patience_s
        self._tell, self._progressed = tell, progressed
        self._tasks = asyncio.TaskGroup()
        self._outgoing = Outgoing()
        self._offers: dict[str, None] = {}  # wait for the fleet's limits
        self._downloads: dict[str, Download] = {}
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._uploads = Uploads(
            device,
            connection,
            partial(spawn, self._tasks),
            outbox=work.outbox,
            pace=pace,
            topics=topics,
            run_blocking=work.blocking,
            on_acknowledged=progressed,
            on_drained=lambda lease: tell(events.UploadDrained(lease)),
            on_lost=self._lose,
        )
        self.offered_chunk_bytes = 0
        """Chunk size of the last offer on this connection; 0: none was made."""
        self._log = structlog.get_logger()

    async def run(self, ended: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serve the connection until `ended` is set, or `leave` is called.

        Args:
            ended: says that the device is to stop.
            on_ready: called once our own topics are subscribed.

        Raises:
            TransportError: the link is gone.
        """
        try:
            async with self._tasks:
                self._tasks.create_task(self._listen(), name="listen")
                self._tasks.create_task(self._outgoing.deliver(self._connection), name="deliver")
                await self._connection.subscribe(
                    [*self._topics.to_device(self._device), self._topics.build(FleetTopic())]
                )
                on_ready()
                await ended.wait()
                raise _Over
        except BaseExceptionGroup as errors:
            with suppress(_Over):
                rethrow(errors)

    def publish(self, topic: str, payload: Callable[[], bytes], *, retained: bool = False) -> None:
        """Publish as soon as the link is free; of one topic the newest only, and as it is then."""

        async def send(connection: Connection) -> None:
            await connection.publish(topic, payload(), retained=retained)

        self._outgoing.put(topic, send)

    def follow(self, run: str) -> None:
        """Subscribe to the manifest of a run."""
        topic = self._topics.build(RoundTopic(run))
        self._outgoing.put(f"follow {run}", lambda connection: connection.subscribe([topic]))

    def fetch(self, order: Assignment) -> None:
        """Fetch the model of an assignment."""
        self._start(order.lease, self._fetch(order))

    def explain(self, run: str, model: ModelRef) -> None:
        """Fetch the index of a model and say in what ours differs."""
        self._start(_SPEC, self._explain(run, model))

    def stop_fetching(self, lease: str) -> None:
        """Ask for no more of it."""
        task, download = self._fetching.pop(lease, None), self._downloads.pop(lease, None)
        if task is not None:
            task.cancel()
        topics = download.asked if download is not None else []
        if topics:
            self._outgoing.put(f"stop {lease}", lambda connection: connection.unsubscribe(topics))

    def offer(self, lease: str) -> None:
        """Publish a report, or the offer of it, once the limits of the fleet are known."""
        fleet = self._limits()
        if fleet is None:
            self._offers[lease] = None
        else:
            self._outgoing.put(f"offer {lease}", self._offer(lease, fleet))

    def leave(self) -> None:
        """End the connection in good order, once what waits is sent."""

        async def over(connection: Connection) -> None:
            raise _Over

        self._outgoing.put("leave", over)

    def grant(self, lease: str, need: tuple[tuple[int, int], ...]) -> None:
        """Send these chunks."""
        self._uploads.grant(lease, need)

    def stop_upload(self, lease: str) -> None:
        """Send no further chunk of it."""
        self._uploads.stop(lease)

    def fraction(self, lease: str) -> float | None:
        """Return how far a transfer is, in [0, 1]; None: there is none."""
        download = self._downloads.get(lease)
        return download.fraction if download is not None else self._uploads.fraction(lease)

    # what comes

    async def _listen(self) -> None:
        async for message in self._connection.messages():
            if not message.payload:  # a retained message that was deleted
                continue
            try:
                self._receive(message)
            except PeerError as error:
                self._log.warning("message_refused", topic=message.topic, reason=str(error.reason), cause=error.detail)
        raise TransportError("the connection has ended")

    def _receive(self, message: Message) -> None:
        payload = message.payload
        match self._topics.parse(message.topic):
            case FleetTopic():
                self._tell(events.FleetSeen(_fleet_of(payload), message.retained))
                waiting, self._offers = self._offers, {}
                for lease in waiting:
                    self.offer(lease)
            case RoundTopic(run):
                manifest = _round_of(payload)
                if manifest.run != run:
                    raise PeerError(Reason.OTHER_RUN, f"the manifest of {run} says {manifest.run}")
                self._tell(events.RoundSeen(manifest, message.retained))
            case AssignmentTopic(device) if device == self._device:
                self._tell(events.AssignmentArrived(decode(Assignment, payload)))
            case ReceiptTopic(device) if device == self._device:
                receipt = decode(Receipt, payload)
                self._progressed()
                self._tell(events.ReceiptArrived(receipt))
            case ControlTopic(device) if device == self._device:
                self._tell(events.ControlArrived(decode(Control, payload)))
            case (IndexTopic() | ModelTopic()) as topic:
                for download in self._downloads.values():
                    download.arrived(topic, payload)

    # what goes

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self.stop_fetching(name)
        task = spawn(self._tasks, work, f"fetch for {name}")
        if task is not None:
            self._fetching[name] = task

    async def _download(self, name: str, run: str, model: ModelRef, on_missing: Callable[[], None]) -> Download:
        download = Download(
            run,
            await self._work.model(model),
            cache=self._work.cache,
            topics=self._topics,
            connection=self._connection,
            run_blocking=self._work.blocking,
            patience_s=self._chunk_patience_s,
            on_progress=self._progressed,
            on_missing=on_missing,
        )
        self._downloads[name] = download
        return download

    async def _fetch(self, order: Assignment) -> None:
        lease = order.lease
        missing = events.ModelMissing(lease, order.model.digest)
        download = await self._download(lease, order.run, order.model, partial(self._tell, missing))
        await download.fetch()
        self._downloads.pop(lease, None)
        self._fetching.pop(lease, None)
        self._tell(events.ModelFetched(lease))

    async def _explain(self, run: str, model: ModelRef) -> None:
        download = await self._download(_SPEC, run, model, lambda: None)
        index = await download.fetch_index()
        self._downloads.pop(_SPEC, None)
        detail = self._work.spec.difference(index.spec.own) or "nothing now: the run has another model by now"
        self._log.error("spec_differs", run=run, parameter=detail)
        self._tell(events.SpecExplained(detail))

    def _offer(self, lease: str, fleet: Fleet) -> Send:
        async def send(connection: Connection) -> None:
            entry = self._work.outbox.entry(lease)
            if entry is None:  # its outcome was faster
                return
            report = entry.report
            if report.outcome is Reported.TRAINED:
                limit = connection.max_payload_bytes
                inline = fleet.inline_bytes if limit is None else min(fleet.inline_bytes, limit - REPORT_BYTES)
                if entry.n_bytes <= inline:
                    try:
                        data = await self._work.blocking(Lane.DISK, partial(self._work.outbox.read, lease))
                    except OSError:
                        if self._work.outbox.entry(lease) is not None:
                            self._lose(lease)
                        return
                    report = report.model_copy(update={"data": data, "chunk_bytes": None})
                else:
                    is_first = self._work.is_first_offer(lease)
                    chunk_bytes = self._pace.chunk_bytes(fleet.chunk_bytes, limit, is_first_offer=is_first)
                    layout = ChunkLayout(entry.n_bytes, chunk_bytes)
                    layout = self._uploads.begin(lease, layout, most_bytes=fleet.chunk_bytes)
                    self.offered_chunk_bytes = layout.chunk_bytes
                    report = report.model_copy(update={"chunk_bytes": layout.chunk_bytes})
            await self._publish_report(connection, report)

        return send

    async def _publish_report(self, connection: Connection, report: Report) -> None:
        await connection.publish(self._topics.build(ReportTopic(self._device, report.lease)), encode(report))
        self._tell(events.ReportSent(report.lease))

    def _lose(self, lease: str) -> None:
        """A report cannot be read any more."""
        self._log.error("outbox_entry_unreadable", lease=lease)
        spawn(self._tasks, self._drop(lease), f"drop {lease}")

    async def _drop(self, lease: str) -> None:
        await self._work.blocking(Lane.DISK, partial(self._work.outbox.drop, lease))
        self._tell(events.ReportLost(lease))
