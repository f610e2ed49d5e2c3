"""One device: its link, its machine, and the rooms that carry the machine's commands out.

It only routes: a message becomes an event, a command goes to the room that knows how. The link is opened for ever, a
fresh connection each time; work goes on while there is none.

Not here: any decision (`participant_machine.py`), what happens on one connection (`session.py`).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from random import Random
from typing import Any, assert_never

import structlog

from broker.reconnect import Reconnect
from broker.transport import Connection, Transport, Will
from edge_client import events
from edge_client.advice import facts_of_refusal
from edge_client.conditions import read_conditions
from edge_client.config import EdgeSettings
from edge_client.device_status import STOPPED, gone, here
from edge_client.device_work import DeviceWork
from edge_client.eligibility import Conditions, Refusal, refusal_of, rules_of
from edge_client.events import Command, Event, Sending
from edge_client.files import Files, OnDisk
from edge_client.link import Link, instant_in
from edge_client.participant_machine import ParticipantMachine
from edge_client.session import Session
from edge_client.training import CarryOut, carry_out
from edge_client.training_line import TrainingLine
from edge_client.upload import LinkPace
from shared.blocking import Lane, RunBlocking, Threads
from shared.errors import ConfigError, Reason, TransportError
from shared.messages import Assignment
from shared.parameters import ParameterSpec
from shared.task import Client, Task
from shared.task_groups import rethrow, spawn
from shared.topics import CheckInTopic, StatusTopic, Topics
from shared.wire import encode

__all__ = ["EdgeClient"]

EXPIRY_S = 3600.0
"""Seconds between looks for reports that are kept too long."""
GOODBYE_S = 2.0
"""Seconds that a link gets to take the last word."""


class EdgeClient:
    """One device. It takes part until it is told to stop, or until the run is finished.

    Args:
        settings: fleet, folder, timers; `until_finished` unset means yes.
        task: the user's.
        client: who we are, and whose data it is; its id is the device's name on the wire.
        transport: a way to the broker for this id.
        run_blocking: for training, digests and the disk; default: threads of its own.
        rng: of all jitter; default: seeded by the machine.
        clock: monotonic seconds of the machine, for `max_seconds`; called in the training lane.
        look: reads the device's conditions; default: of this machine, as far as Linux tells them.
        spec: of the task's model, if somebody has asked the task already.
        line: of all that train in the same lanes; default: this device alone.
        files: where it keeps its state; default: in the folder that the settings name.
        carry_out: `training.carry_out`; a rehearsed attacker has another.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        task: Task,
        client: Client,
        transport: Transport,
        *,
        run_blocking: RunBlocking | None = None,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[], Conditions] | None = None,
        spec: ParameterSpec | None = None,
        line: TrainingLine | None = None,
        files: Files | None = None,
        carry_out: CarryOut = carry_out,
    ) -> None:
        self._settings, self._task, self._client = settings, task, client
        self._run_blocking, self._clock, self._spec = run_blocking, clock, spec
        metered = settings.eligibility.metered_interfaces
        self._look = look or partial(read_conditions, data=client.data, metered_interfaces=metered)
        self._rules = rules_of(settings.eligibility)
        self._line, self._carry_out = line or TrainingLine(), carry_out
        self._files = files or OnDisk(settings.state_folder(client.id))
        self._rng = rng or Random()
        self._topics = Topics(settings.fleet)
        self._status_topic = self._topics.build(StatusTopic(client.id))
        self._boot = f"{self._rng.getrandbits(64):016x}"
        self._conditions: dict[str, bool | float | str] = {}
        self._ended = asyncio.Event()
        self._reconnect = Reconnect(self._rng)
        self._link = Link(transport, self._reconnect, self._ended)
        self._alarm: asyncio.TimerHandle | None = None
        self._session: Session | None = None
        self._away: Refusal | None = None
        self._failure: ConfigError | None = None
        self._background = asyncio.TaskGroup()
        self._training: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    def stop(self) -> None:
        """Let `run` end in good order: the status says offline, unfinished reports stay in the outbox."""
        self._ended.set()

    async def run(self) -> None:
        """Take part. Cancelling it is as good as pulling the plug; `stop` says goodbye first.

        Raises:
            AlreadyServed: another process has this device's folder.
            CredentialsRefused: the broker refuses who we are.
            ConfigError: the task does not say what its model is, the folder cannot be written to, or, where the device
                takes part in one run only, another device uses its id.
        """
        with (
            structlog.contextvars.bound_contextvars(device=self._client.id),
            self._files.lock(),
            _lanes(self._run_blocking) as run_blocking,
        ):
            self._work = DeviceWork(
                self._settings,
                self._task,
                self._client,
                run_blocking,
                self._clock,
                self._line,
                self._files,
                self._carry_out,
            )
            await self._work.open(self._spec)
            self._pace = LinkPace(self._settings.broker.keepalive_s, self._work.saved_chunk_bytes)
            self._machine = ParticipantMachine(
                boot=self._boot,
                spec=self._work.spec.digest,
                timers=self._settings.timers,
                rng=self._rng,
                held=self._work.held(),
                finals=self._work.outbox.finals,
                epoch=self._work.saved_epoch,
                device_class=self._settings.device_class or "",
                stateful=self._settings.keeps_state,
            )
            try:
                async with self._background:
                    tasks = [
                        self._background.create_task(self._look_at_self(), name="conditions"),
                        self._background.create_task(self._expire(), name="expiry"),
                    ]
                    await self._link.keep(
                        self._live,
                        will=self._will,
                        on_lost=self._on_lost,
                        window_s=self._window_s,
                    )
                    if self._training is not None:
                        tasks.append(self._training)
                    for task in tasks:
                        task.cancel()
            except BaseExceptionGroup as errors:
                rethrow(errors)
            finally:
                if self._alarm is not None:
                    self._alarm.cancel()
            if self._failure is not None:
                raise self._failure

    def tell(self, event: Event) -> None:
        """Give the machine an event and carry out what it answers."""
        for command in self._machine.handle(event, asyncio.get_running_loop().time()):
            self._execute(command)
        self._set_alarm()

    # the link

    async def _live(self, connection: Connection) -> None:
        session = Session(
            self._client.id,
            connection,
            self._topics,
            self._work,
            self._pace,
            limits=lambda: self._machine.fleet,
            chunk_patience_s=self._settings.timers.chunk_s,
            tell=self.tell,
            progressed=self._reconnect.progress,
        )
        try:
            await session.run(self._ended, partial(self._on_ready, session))
        finally:
            if self._pace.connection_ended(session.offered_chunk_bytes):
                self._log.info("chunk_size_changed", chunk_bytes=self._pace.chunk_limit)
                self._spawn(self._work.save_chunk_bytes(self._pace.chunk_limit), "save chunk size")
        with suppress(TransportError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await connection.publish(self._status_topic, self._farewell(), retained=True)

    def _will(self) -> Will:
        return Will(self._status_topic, gone(boot=self._boot, connection=self._link.connection))

    def _farewell(self) -> bytes:
        lease = next((report.lease for report in self._machine.held), None)
        connection, refusal = self._link.connection, self._away or self._machine.refusal
        return gone(boot=self._boot, connection=connection, phase=STOPPED, lease=lease, refusal=refusal)

    def _status(self, wish: events.SendStatus) -> bytes:
        progress, connection = self._fraction(wish.lease), self._link.connection
        return here(wish, boot=self._boot, connection=connection, progress=progress, conditions=self._conditions)

    def _on_ready(self, session: Session) -> None:
        self._log.info("connected", connection=self._link.connection)
        self._session, self._away = session, None
        self.tell(events.Connected(self._link.connection))

    def _on_lost(self, error: TransportError) -> None:
        if self._session is not None:
            self._session = None
            self.tell(events.Disconnected(error.taken_over))

    def _window_s(self) -> float:
        return self._machine.fleet.reconnect_window_s if self._machine.fleet is not None else 0.0

    # the machine

    def _set_alarm(self) -> None:
        """Look at the deadline when it has passed. One that was moved back is looked at too early, and then again."""
        deadline = self._machine.deadline
        if deadline is None or (self._alarm is not None and self._alarm.when() <= deadline):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._alarm = None
        deadline = self._machine.deadline
        if deadline is not None and deadline <= asyncio.get_running_loop().time():
            self._spawn(self._pass_deadline(), "deadline")
        else:
            self._set_alarm()

    async def _pass_deadline(self) -> None:
        self.tell(events.DeadlinePassed())

    async def _look_at_self(self) -> None:
        while True:
            conditions = await self._work.blocking(Lane.DISK, self._look)
            self._conditions = conditions.to_wire()
            self.tell(
                events.EligibilityRead(
                    refusal_of(conditions, self._rules), self._conditions, conditions.free_memory_bytes
                )
            )
            await asyncio.sleep(self._settings.timers.conditions_interval_s)

    async def _expire(self) -> None:
        """Now and then drop what has waited too long for its outcome; a start comes first, and offers it once."""
        while True:
            await asyncio.sleep(EXPIRY_S)
            self._tell_lost(await self._work.blocking(Lane.DISK, self._work.outbox.expire))

    def _tell_lost(self, leases: list[str]) -> None:
        for lease in leases:
            self.tell(events.ReportLost(lease))

    def _execute(self, command: Command) -> None:
        match command:
            case events.BeginTraining(order, fetch_s):
                self._training = self._spawn(self._train(order, fetch_s), f"train {order.lease}")
            case events.CancelTraining(lease):
                self._work.cancel(lease)
            case events.Settle():
                self._spawn(self._work.settle(command), f"settle {command.lease}")
            case events.StayAway(_, detail) if self._is_for_one_run:
                self._failure = ConfigError(detail, where=f"device {self._client.id}")
                self._ended.set()
            case events.StayAway(seconds, detail):
                self._away = Refusal(Reason.CLONED_ID, f"{detail}; next try at {instant_in(seconds)}")
                self._link.stay_away(seconds, detail)
                if self._session is not None:
                    self._session.leave()
            case events.Announce(Reason.CLONED_ID) if self._is_for_one_run:
                pass  # the error that ends it says so
            case events.Announce(reason, detail, retry_s):
                self._log.warning("turned_away", **facts_of_refusal(reason, detail, instant_in(retry_s)))
            case events.PutOff(lease, reason):
                so = "the report is kept, and offered again until it is taken"
                self._log.info("busy", lease=lease, reason=str(reason or Reason.PAUSED), so=so)
            case events.KeepEpoch(epoch):
                self._spawn(self._work.save_epoch(epoch), f"save epoch {epoch}")
            case events.RunFinished(run):
                self._log.info("run_finished", run=run)
                if self._is_for_one_run:
                    self._ended.set()
            case _:
                if self._session is not None:
                    self._send(command, self._session)

    @property
    def _is_for_one_run(self) -> bool:
        return self._settings.until_finished is not False

    def _send(self, command: Sending, session: Session) -> None:
        match command:
            case events.SendCheckIn(message):
                session.publish(self._topics.build(CheckInTopic(self._client.id)), partial(encode, message))
            case events.SendStatus():
                session.publish(self._status_topic, partial(self._status, command), retained=True)
            case events.FollowRun(run):
                session.follow(run)
            case events.FetchModel(order):
                session.fetch(order)
            case events.StopFetching(lease):
                session.stop_fetching(lease)
            case events.Offer(lease):
                session.offer(lease)
            case events.GrantChunks(lease, need):
                session.grant(lease, need)
            case events.StopUpload(lease):
                session.stop_upload(lease)
            case events.ExplainSpec(run, model):
                session.explain(run, model)
            case _:
                assert_never(command)

    async def _train(self, order: Assignment, fetch_s: float) -> None:
        def offline_s() -> float:
            return self._machine.offline_s(order.lease, asyncio.get_running_loop().time())

        dropped = await self._work.work(order, fetch_s=fetch_s, offline_s=offline_s)
        if dropped is not None:
            self._tell_lost(dropped)
            self.tell(events.ReportStored(order.lease))

    def _fraction(self, lease: str | None) -> float | None:
        if lease is None:
            return None
        training = self._work.fraction(lease)
        return training if training is not None or self._session is None else self._session.fraction(lease)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None] | None":
        return spawn(self._background, work, name)


@contextmanager
def _lanes(run_blocking: RunBlocking | None) -> Iterator[RunBlocking]:
    """Use the lanes that are given, or threads of one's own."""
    if run_blocking is not None:
        yield run_blocking
        return
    with Threads() as threads:
        yield threads
