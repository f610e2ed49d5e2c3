"""The aggregator's link to the broker, connection after connection.

At every connection: subscribe, publish of the model what reading back shows to be missing, then fleet, status and
round with the current epoch. The first time, before anything is claimed: whoever serves the fleet already is named,
and this process steps back. Messages for devices that find no connection are dropped: devices ask again.

Not here: what is said (`announcements.py`), what is decided (`round_machine.py`).
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from aggregator.announcements import Announcements
from aggregator.events import BrokerFound, BrokerLost, Event, ModelGone, Published
from aggregator.opening import OpenRun
from aggregator.publishing import ModelBlob, Publisher, which_to_delete
from aggregator.reception import Reception
from aggregator.records import EpochRecord
from broker.reconnect import Reconnect
from broker.transport import Connection, Transport
from shared.errors import AlreadyServed, ConfigError, PeerError, TransportError, leaf_of
from shared.messages import AggregatorStatus
from shared.wire import decode_json, encode_json

__all__ = ["Session"]

log = structlog.get_logger(__name__)

LONGEST_WAIT_S = 10.0
"""An aggregator is one process: it may knock more often than a fleet."""
SENDERS = 16
"""Publishes under way at a time; they leave in the order in which they were asked for."""
STATUS_EVERY_S = 1.0
GOODBYE_S = 5.0


class Session:
    """Keeps the link, and everything that has to be on the broker.

    Args:
        opened: the run.
        words: what is said; its epoch is set here.
        reception: takes what devices send.
        tell: takes events for the round machine.
        wall: Unix time.
    """

    def __init__(
        self,
        opened: OpenRun,
        words: Announcements,
        reception: Reception,
        *,
        tell: Callable[[Event], None],
        wall: Callable[[], float],
    ) -> None:
        self._opened, self._words, self._reception, self._tell, self._wall = opened, words, reception, tell, wall
        self._topics = words.topics
        self._blob = opened.blob  # the newest committed version
        words.epoch = max(opened.recovered.epoch + 1, int(wall()))  # for the will; claimed only later
        self._is_up = False
        self._is_leaving = False
        self._leave, self._left = asyncio.Event(), asyncio.Event()
        self._served_by: AggregatorStatus | None = None  # whoever published the retained status that we found
        self._outgoing: asyncio.Queue[tuple[str, bytes, bool]] = asyncio.Queue()
        self._to_repair: asyncio.Queue[str | None] = asyncio.Queue()  # None: the newest version is new
        self.bytes_down = 0
        """Of models published, each piece once however many devices fetch it."""
        self.ready = asyncio.Event()
        """Set once the epoch is claimed: from then on the machine may speak."""

    # what others call

    def send(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Publish when there is a connection; drop it when there is none."""
        if self._is_up:
            self._outgoing.put_nowait((topic, payload, retained))

    def publish_round(self) -> None:
        """Publish the manifest as it is now."""
        self.send(*self._words.round(self._blob.ref), retained=True)

    def committed(self, blob: ModelBlob) -> None:
        """A version is the truth: publish it, now or at the next connection, then say `Published`."""
        self._blob = blob
        self._opened.models[blob.ref.version] = blob.ref
        self._to_repair.put_nowait(None)

    def repair(self, digest: str) -> None:
        """A device misses pieces of a model: look what is there, publish the rest."""
        if digest == self._blob.ref.digest:
            self._to_repair.put_nowait(digest)

    async def say_goodbye(self) -> None:
        """Let everything leave that was asked for, the last status included; gives up when the link is gone."""
        self._is_leaving = True
        self._send_status()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await self._outgoing.join()
                if self._is_up:
                    self._leave.set()
                    await self._left.wait()

    async def keep(self, transport: Transport, rng: random.Random) -> None:
        """Connect, serve, reconnect, until the goodbye is said.

        Raises:
            AlreadyServed: somebody else serves the fleet.
            CredentialsRefused: trying again changes nothing.
        """
        reconnect = Reconnect(rng, cap_s=LONGEST_WAIT_S)
        while True:
            try:
                async with transport.connect(will=self._words.will()) as connection:
                    await self._serve(connection, reconnect)
                self._left.set()
                return
            except (TransportError, BaseExceptionGroup) as caught:
                error = leaf_of(caught) if isinstance(caught, BaseExceptionGroup) else caught
                if not isinstance(error, TransportError):
                    raise error from caught
            wait_s = reconnect.after_failure()
            again = datetime.fromtimestamp(self._wall() + wait_s, UTC).strftime("%H:%M:%S UTC")
            log.warning("broker_lost", error=str(error), attempt=reconnect.attempts, again_at=again)
            self._is_up = False
            self._tell(BrokerLost())
            await asyncio.sleep(wait_s)

    # one connection

    async def _serve(self, connection: Connection, reconnect: Reconnect) -> None:
        publisher = Publisher(connection, self._topics, self._opened.run)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._read(connection, publisher), name="session-read")]
            await connection.subscribe([self._words.status_topic()])
            await connection.subscribe([self._topics.every_status], qos=0)
            await connection.subscribe(self._topics.every_device)
            is_new = not self.ready.is_set() and not self._opened.recovered.n_records
            await (publisher.publish(self._blob) if is_new else publisher.ensure(self._blob))
            if not self.ready.is_set():
                await self._claim()
            for topic, payload in (self._words.fleet(), self._words.round(self._blob.ref)):
                await connection.publish(topic, payload, retained=True)
            while not self._outgoing.empty():  # meant for the connection before
                self._outgoing.get_nowait()
                self._outgoing.task_done()
            self._is_up = True
            reconnect.progress()
            self.ready.set()
            self._tell(BrokerFound())
            self._tell(Published(version=self._blob.ref.version))
            for i in range(SENDERS):
                tasks.append(group.create_task(self._send_out(connection), name=f"session-send-{i}"))
            tasks.append(group.create_task(self._publish_models(publisher), name="session-models"))
            tasks.append(group.create_task(self._publish_status(connection), name="session-status"))
            await self._leave.wait()
            for task in tasks:
                task.cancel()

    async def _claim(self) -> None:
        """Take the fleet: with an epoch above all that came before, unless somebody else serves it."""
        found = self._served_by
        if found is not None and found.online and found.instance not in self._opened.recovered.instances:
            raise _served_by(found, self._opened.settings.fleet)
        retained = 0 if found is None else found.epoch
        epoch = max(self._words.epoch, retained + 1)
        await self._opened.journal.append(EpochRecord(epoch=epoch, instance=self._words.instance))
        self._words.epoch = epoch
        log.info("serving", run=self._opened.run, fleet=self._opened.settings.fleet, epoch=epoch)

    async def _read(self, connection: Connection, publisher: Publisher) -> None:
        own_topic, loop = self._words.status_topic(), asyncio.get_running_loop()
        async for message in connection.messages():
            if publisher.arrived(message):
                continue
            if message.topic == own_topic:
                self._status_seen(message.payload)
            elif self.ready.is_set():
                self._reception.receive(message, loop.time())

    def _status_seen(self, payload: bytes) -> None:
        try:
            status = decode_json(AggregatorStatus, payload)
        except PeerError:
            return
        if status.instance == self._words.instance:
            return
        if not self.ready.is_set():
            self._served_by = status
            return
        ours = (self._words.epoch, self._words.instance)
        if status.online and (status.epoch, status.instance) > ours:
            raise _served_by(status, self._opened.settings.fleet)
        self._send_status()  # an older one still talks, or its will did: say again who serves

    async def _send_out(self, connection: Connection) -> None:
        while True:
            topic, payload, retained = await self._outgoing.get()
            try:
                await connection.publish(topic, payload, retained=retained)
            finally:
                self._outgoing.task_done()

    async def _publish_models(self, publisher: Publisher) -> None:
        while True:
            digest = await self._to_repair.get()
            blob = self._blob
            try:
                n_missing = await publisher.ensure(blob) if digest else await self._publish_new(publisher, blob)
            except ConfigError as error:
                log.error("model_not_published", error=str(error))
                continue
            if digest:
                log.info("model_repaired", version=blob.ref.version, n_pieces=n_missing)

    async def _publish_new(self, publisher: Publisher, blob: ModelBlob) -> int:
        await publisher.publish(blob)
        self.bytes_down += len(blob.data) + len(blob.index_bytes)
        self._tell(Published(version=blob.ref.version))
        models = self._opened.models
        live = {lease.record.base_version for lease in self._opened.machine.leases.open()}
        gone = which_to_delete(list(models.values()), live)
        for ref in gone:
            del models[ref.version]
            if ref.version in live:
                self._tell(ModelGone(version=ref.version))
        await publisher.delete(gone, list(models.values()), len(blob.data))
        return 0

    async def _publish_status(self, connection: Connection) -> None:
        last: bytes | None = None
        while True:
            payload = self._status()
            if payload != last:
                await connection.publish(self._words.status_topic(), payload, retained=True)
                last = payload
            await asyncio.sleep(STATUS_EVERY_S)

    def _send_status(self) -> None:
        self.send(self._words.status_topic(), self._status(), retained=True)

    def _status(self) -> bytes:
        status = self._words.status(asyncio.get_running_loop().time())
        return encode_json(status.model_copy(update={"online": not self._is_leaving}))


def _served_by(status: AggregatorStatus, fleet: str) -> AlreadyServed:
    return AlreadyServed(
        f"fleet {fleet!r} is served by another aggregator: instance {status.instance}, run {status.run!r}, "
        f"epoch {status.epoch}",
        hint="stop that one first, or give this run another fleet",
    )
