"""The aggregator's link to the broker, connection after connection.

At every connection: subscribe, publish of the model what reading back shows to be missing, then fleet, status and
round with the current epoch. The first time, before anything is claimed: whoever serves the fleet already is named,
and this process steps back. A retained status alone proves nothing, for a broker that died together with its
aggregator may have kept it: what counts is that another follows. Messages for devices that find no connection are
dropped: devices ask again.

Not here: what is said (`announcements.py`), what is decided (`round_machine.py`).
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from aggregator.announcements import BEAT_S, Announcements
from aggregator.events import BrokerFound, BrokerLost, Event, ModelGone, Published
from aggregator.opening import OpenRun
from aggregator.publishing import ModelBlob, Publisher, which_to_delete
from aggregator.reception import Reception
from aggregator.records import EpochRecord
from broker.reconnect import Reconnect
from broker.transport import Connection, Transport
from shared.errors import AlreadyServed, ConfigError, CredentialsRefused, PeerError, TransportError
from shared.messages import AggregatorStatus, ModelRef
from shared.task_groups import rethrow
from shared.wire import decode_json, encode_json

__all__ = ["Session"]

log = structlog.get_logger(__name__)

LONGEST_WAIT_S = 10.0
"""An aggregator is one process: it may knock more often than a fleet."""
SENDERS = 16
"""Publishes under way at a time; they leave in the order in which they were asked for."""
STATUS_EVERY_S = 1.0
SILENT_AFTER_S = 4 * BEAT_S
"""An aggregator that says nothing for so long is dead, or will give way when it comes back and sees our epoch."""
PUBLISH_AGAIN_S = 30.0
"""Between two attempts at a version that the broker does not take."""
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
        self._there: ModelRef | None = None  # the newest version that was read back from the broker
        self._is_new = False  # the newest version has not been published, or what it replaces not been deleted
        self._is_missed = asyncio.Event()  # pieces of it are missing; or it is new
        self._gone: list[ModelRef] = list(opened.outdated)  # to be deleted from the broker
        words.epoch = max(opened.recovered.epoch + 1, int(wall()))  # for the will; claimed only later
        self._is_up = False
        self._is_leaving = False
        self._leave, self._left = asyncio.Event(), asyncio.Event()
        self._served_by: AggregatorStatus | None = None  # the newest status of another that we found
        self._spoke = asyncio.Event()  # it changed while we looked: whoever publishes it is alive
        self._silent: AggregatorStatus | None = None  # it did not, for long enough
        self._outgoing: asyncio.Queue[tuple[str, bytes, bool]] = asyncio.Queue()
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
        self.send(*self._words.round(self._there or self._opened.blob.ref), retained=True)

    def committed(self, blob: ModelBlob) -> None:
        """A version is the truth: publish it, now or at the next connection, then say `Published`."""
        self._opened.blob, self._is_new = blob, True
        self._opened.models[blob.ref.version] = blob.ref
        self._is_missed.set()

    def repair(self, digest: str) -> None:
        """A device misses pieces of a model: look what is there, publish the rest, once for all who ask meanwhile."""
        if digest == self._opened.blob.ref.digest:
            self._is_missed.set()

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
            ConfigError: the broker does not take our models. Once it has, that is waited out like a lost link.
        """
        reconnect = Reconnect(rng, cap_s=LONGEST_WAIT_S)
        while True:
            try:
                async with transport.connect(will=self._words.will()) as connection:
                    await self._serve(connection, reconnect)
                self._left.set()
                return
            except TransportError as error:
                cause = str(error)
            except ConfigError as error:
                if isinstance(error, AlreadyServed | CredentialsRefused) or not self.ready.is_set():
                    raise
                cause = str(error)
            self._is_up = False
            wait_s = reconnect.after_failure()
            again = datetime.fromtimestamp(self._wall() + wait_s, UTC).strftime("%H:%M:%S UTC")
            log.warning("broker_lost", error=cause, attempt=reconnect.attempts, again_at=again)
            self._tell(BrokerLost())
            await asyncio.sleep(wait_s)

    # one connection

    async def _serve(self, connection: Connection, reconnect: Reconnect) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._serve_with(group, connection, reconnect)
        except BaseExceptionGroup as errors:
            rethrow(errors)

    async def _serve_with(self, group: asyncio.TaskGroup, connection: Connection, reconnect: Reconnect) -> None:
        publisher = Publisher(connection, self._topics, self._opened.run)
        tasks = [group.create_task(self._read(connection, publisher), name="session-read")]
        await connection.subscribe([self._words.status_topic()])
        await connection.subscribe([self._topics.every_status], qos=0)
        await connection.subscribe(self._topics.every_device)
        await self._step_back_if_served()  # before anything is published
        self._there = there = await self._publish_what_is_missing(publisher)
        if not self.ready.is_set():
            await self._claim()
        while not self._outgoing.empty():  # meant for the connection before
            self._outgoing.get_nowait()
            self._outgoing.task_done()
        self._is_up = True  # whoever reads who serves may speak at once: what it is answered leaves after these two
        self.ready.set()
        for topic, payload in (self._words.fleet(), self._words.round(there)):
            await connection.publish(topic, payload, retained=True)
        reconnect.progress()
        self._tell(BrokerFound())
        self._tell(Published(version=there.version))
        for i in range(SENDERS):
            tasks.append(group.create_task(self._send_out(connection), name=f"session-send-{i}"))
        tasks.append(group.create_task(self._publish_models(publisher), name="session-models"))
        tasks.append(group.create_task(self._publish_status(connection), name="session-status"))
        await self._leave.wait()
        for task in tasks:
            task.cancel()

    async def _publish_what_is_missing(self, publisher: Publisher) -> ModelRef:
        """Publish the newest version, which may be another one by the time that this returns which it was."""
        blob = self._opened.blob
        is_first = not self.ready.is_set() and not self._opened.recovered.n_records
        await (publisher.publish(blob) if is_first else publisher.ensure(blob))
        return blob.ref

    async def _claim(self) -> None:
        """Take the fleet: with an epoch above all that came before, unless somebody else serves it."""
        await self._step_back_if_served()
        found = self._served_by
        retained = 0 if found is None else found.epoch
        epoch = max(self._words.epoch, retained + 1)
        await self._opened.journal.append(EpochRecord(epoch=epoch, instance=self._words.instance))
        self._words.epoch = epoch
        log.info("serving", run=self._opened.run, fleet=self._opened.settings.fleet, epoch=epoch)

    async def _step_back_if_served(self) -> None:
        """Give way to another aggregator that is alive; wait for a sign of it, and take over when none comes."""
        found = self._served_by
        if self.ready.is_set() or found is None or found == self._silent or not self._is_another(found):
            return
        if not self._spoke.is_set():
            facts = {"instance": found.instance, "run": found.run, "epoch": found.epoch}
            log.warning(
                "fleet_may_be_served",
                **facts,
                waits_s=SILENT_AFTER_S,
                waits_for="a sign of life from it: with one this run gives way, without one it takes the fleet over",
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENT_AFTER_S):
                    await self._spoke.wait()
            if not self._spoke.is_set():
                self._silent = found
                log.warning("fleet_taken_over", **facts, cause="its status is retained, and it says nothing more")
                return
        if self._is_another(latest := self._served_by or found):
            raise _served_by(latest, self._opened.settings.fleet)

    def _is_another(self, status: AggregatorStatus) -> bool:
        """Whether it says that an aggregator is there which is none of the starts of this run."""
        return status.online and status.instance not in self._opened.recovered.instances

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
            if self._served_by is not None and status != self._served_by:
                self._spoke.set()
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
        """Publish what is new or missing; what the broker does not take is tried again, for the round waits for it."""
        while True:
            if not self._is_new:
                await self._is_missed.wait()
            self._is_missed.clear()
            blob = self._opened.blob
            try:
                if self._is_new:
                    await self._publish_new(publisher, blob)
                else:
                    n_missing = await publisher.ensure(blob)
                    log.info("model_repaired", version=blob.ref.version, n_pieces=n_missing)
            except ConfigError as error:
                log.error("model_not_published", error=str(error), again_in_s=PUBLISH_AGAIN_S)
                await asyncio.sleep(PUBLISH_AGAIN_S)

    async def _publish_new(self, publisher: Publisher, blob: ModelBlob) -> None:
        if blob.ref != self._there:
            await publisher.publish(blob)
            self._there = blob.ref
            self.bytes_down += len(blob.data) + len(blob.index_bytes)
        self._tell(Published(version=blob.ref.version))
        models = self._opened.models
        live = {lease.record.base_version for lease in self._opened.machine.leases.open() if not lease.has_model}
        for ref in which_to_delete(list(models.values()), live):
            del models[ref.version]
            self._gone.append(ref)
            if ref.version in live:
                self._tell(ModelGone(version=ref.version))
        await publisher.delete(self._gone, list(models.values()), len(blob.data))
        self._gone.clear()
        self._is_new = blob is not self._opened.blob

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
