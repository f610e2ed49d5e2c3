"""The aggregator's one asyncio shell: it waits for an event or the machine's deadline, and carries commands out.

Routes only: transport → `reception.py` → `round_machine.py` → the room that executes each command. Rows go through
one writer, sums through one worker in the order of the journal, messages through `session.py`.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import structlog

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.announcements import Announcements
from aggregator.config import Settings
from aggregator.evaluation import Evaluator, TaskEvaluator
from aggregator.intake import Intake
from aggregator.journal import Journal
from aggregator.loop_lag import LoopLag
from aggregator.lost_journal import refuse_lost_journal
from aggregator.opening import OpenRun, open_run, run_name, unfinished_checks
from aggregator.pause_log import PauseLog
from aggregator.plug_ins import PlugIns, load_plug_ins
from aggregator.reception import Reception
from aggregator.results import Results, RunResult
from aggregator.row_writer import RowWriter
from aggregator.run_folder import RunFolder
from aggregator.session import Session
from aggregator.timekeeping import Timekeeping
from aggregator.update_file import RowCopies
from aggregator.upkeep import Upkeep
from aggregator.uploads import Uploads
from aggregator.version_making import VersionMaking
from broker.transport import Transport
from shared.blocking import Lane, RunBlocking, Threads
from shared.errors import InvalidState, leaf_of
from shared.task import Task
from shared.topics import Topics

__all__ = ["Aggregator", "RunResult"]

log = structlog.get_logger(__name__)

Tell: TypeAlias = Callable[[ev.Event], dict[str, Any]]
Reachable: TypeAlias = Callable[[RunFolder, Tell], contextlib.AbstractAsyncContextManager[None]]

SHORTEST_ANSWER_S = 30.0
"""After its end a run answers at least this long, unless every device of the last round has heard the outcome."""


class Aggregator:
    """Serves one run of one fleet until it is finished.

    Args:
        settings: of the run.
        task: for the first model and central evaluation; None: `evaluator` does both.
        transport: to the broker.
        evaluator: instead of `task`, when the task has to stay out of this process.
        run_blocking: threads when None.
        reachable: makes a run steerable while it is served, such as `operator_socket.listening`.
        rng: jitter of reconnecting.
        lag: measures the event loop; None: nobody does, as in virtual time, where no loop is late.
        wall: Unix time.
        instance: random name of this process, never used before; default: drawn by the machine.
        plug_ins: what the settings name; None: it is loaded, what is a user's own from the current folder.

    Raises:
        ConfigError: the settings name a rule or an optimizer that there is not.
    """

    def __init__(
        self,
        settings: Settings,
        task: Task | None,
        transport: Transport,
        *,
        evaluator: Evaluator | None = None,
        run_blocking: RunBlocking | None = None,
        reachable: Reachable | None = None,
        rng: random.Random | None = None,
        lag: LoopLag | None = None,
        wall: Callable[[], float] = time.time,
        instance: str | None = None,
        plug_ins: PlugIns | None = None,
    ) -> None:
        if (task is None) == (evaluator is None):
            raise InvalidState("an aggregator needs a task or an evaluator, not both")
        self.settings = settings
        self._task, self._transport, self._evaluator, self._run_blocking = task, transport, evaluator, run_blocking
        self._reachable, self._rng, self._lag, self._wall = reachable, rng or random.Random(), lag, wall
        self._instance = instance or secrets.token_hex(8)
        self._plug_ins = plug_ins or load_plug_ins(settings, Path.cwd())
        self._serving: _Serving | None = None
        self.folder = settings.output.folder / run_name(settings)

    async def run(self) -> RunResult:
        """Serve the run to its end; the same name resumes.

        Raises:
            ConfigError: what the operator wrote cannot work; `AlreadyServed` when somebody else serves the run.
        """
        with contextlib.ExitStack() as stack:
            run_blocking = self._run_blocking or stack.enter_context(Threads())
            folder = stack.enter_context(RunFolder(self.folder))
            refuse_lost_journal(self.folder)
            journal = await Journal.open(folder.journal, run_blocking, RowCopies(folder.updates))
            evaluator = self._evaluator or TaskEvaluator(self._task_given(), run_blocking)
            try:
                now, instance = asyncio.get_running_loop().time(), self._instance
                opened = await open_run(
                    self.settings,
                    folder,
                    journal,
                    evaluator,
                    run_blocking,
                    instance=instance,
                    now=now,
                    wall=self._wall,
                    plug_ins=self._plug_ins,
                )
                self._serving = _Serving(opened, evaluator, run_blocking, instance, self._lag, self._wall)
                async with self._reachable(folder, self.tell) if self._reachable else contextlib.nullcontext():
                    return await self._serving.serve(self._transport, self._rng)
            except BaseExceptionGroup as group:
                raise leaf_of(group) from group
            finally:
                self._serving = None
                await evaluator.close()
                await journal.close()

    def tell(self, event: ev.Event) -> dict[str, Any]:
        """Take an operator's event; returns what to tell the operator."""
        if self._serving is None:
            return {"error": "not serving yet: try again in a moment"}
        return self._serving.take(event)

    def leave(self) -> bool:
        """Answer the last devices no longer; return whether the run has ended, so that `run` will now return."""
        return self._serving is not None and self._serving.leave()

    def _task_given(self) -> Task:
        if self._task is None:
            raise InvalidState("no task")
        return self._task


class _Serving:
    """One run being served."""

    def __init__(
        self,
        opened: OpenRun,
        evaluator: Evaluator,
        run_blocking: RunBlocking,
        instance: str,
        lag: LoopLag | None,
        wall: Callable[[], float],
    ) -> None:
        self._opened, self._run_blocking, self._lag = opened, run_blocking, lag
        self._settings, self._machine = opened.settings, opened.machine
        transfer = self._settings.transfer
        self._uploads = Uploads(max_bytes=transfer.granted_bytes, max_chunks=transfer.granted_chunks)
        self._intake = Intake(
            self._uploads,
            opened.part_files,
            run_blocking,
            spec=opened.aggregation.state.spec,
            max_norm=self._settings.server.max_norm,
            tell=self._tell,
        )
        topics = Topics(self._settings.fleet)
        self._reception = Reception(
            self._settings,
            run=opened.run,
            topics=topics,
            spec=opened.aggregation.state.spec,
            leases=self._machine.leases,
            intake=self._intake,
            tell=self._tell,
        )
        self._words = Announcements(self._settings, run=opened.run, machine=self._machine, instance=instance, lag=lag)
        self._session = Session(opened, self._words, self._reception, tell=self._tell, wall=wall)
        self._versions = VersionMaking(
            self._settings,
            opened.aggregation,
            self._machine.tally,
            evaluator,
            opened.blob,
            run_blocking,
            participants=opened.recovered.participants,
            tell=self._tell,
        )
        self._results = Results(opened, wall)
        self._pauses = PauseLog()
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._rows = RowWriter(opened.journal, tell=self._tell, execute=self._execute)
        self._upkeep = Upkeep(opened, run_blocking, tell=self._tell, wall=wall)
        self._times = Timekeeping(opened, put_blocking=self._upkeep.put_blocking, wall=wall, now=self._now())
        self._settled = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def take(self, event: ev.Event) -> dict[str, Any]:
        """Take an operator's event, unless it would not do what it says."""
        machine = self._machine
        if (objection := machine.pausing.objection(event, machine.phase)) is not None:
            return {"error": objection}
        self._tell(event)
        return {
            "run": self._opened.run,
            "phase": str(machine.phase),
            "round": machine.round_id,
            "version": machine.version,
        }

    def leave(self) -> bool:
        """Stop answering once the run has ended; return whether it has."""
        if self._ended.done():
            self._settled.set()
        return self._ended.done()

    async def serve(self, transport: Transport, rng: random.Random) -> RunResult:
        """Serve until the run is finished and everybody who asked was answered."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._session.keep(transport, rng), name="session"),
                group.create_task(self._intake.run(), name="intake"),
                group.create_task(self._rows.run(), name="journal"),
                group.create_task(self._versions.run(), name="versions"),
                group.create_task(self._grant(), name="grants"),
                group.create_task(self._upkeep.run(), name="upkeep"),
                group.create_task(self._decide(), name="machine"),
            ]
            if self._lag is not None:
                tasks.append(group.create_task(self._lag.run(), name="loop-lag"))
            cause = await self._ended
            await self._upkeep.done()
            await self._run_blocking(Lane.DISK, partial(self._results.finish, self._machine.version))
            await self._answer_the_last()
            await self._session.say_goodbye()
            for task in tasks:
                task.cancel()
        return self._result(cause)

    # deciding

    def _tell(self, event: ev.Event) -> None:
        self._inbox.put_nowait(event)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _decide(self) -> None:
        await self._session.ready.wait()
        for lease in unfinished_checks(self._opened):
            self._intake.take_finished(lease)
        with contextlib.suppress(OSError):  # said when it is looked at again
            await self._upkeep.look()  # before anybody is given a lease
        now = self._now()
        self._times.begin(now)
        self._take(None, self._machine.start(now), now)
        if self._machine.is_finished:  # it had ended before
            self._settled.set()
        while True:
            event = await self._next_event()
            now = self._now()
            self._take(event, self._machine.handle(event, now), now)
            if self._machine.is_finished and not self._machine.invitations.recent:
                self._settled.set()

    async def _next_event(self) -> ev.Event:
        if not self._inbox.empty():  # a timer for every event of a large fleet would cost as much as the event
            return self._inbox.get_nowait()
        try:
            async with asyncio.timeout_at(self._machine.deadline):
                return await self._inbox.get()
        except TimeoutError:
            return ev.DeadlinePassed()

    def _take(self, event: ev.Event | None, commands: Sequence[cmd.Command], now: float) -> None:
        self._pauses.look(self._machine.pausing.causes, self._machine.phase, now)
        self._times.note(event, commands, now)
        for command in commands:
            if not self._rows.put(command):
                self._execute(command)

    def _execute(self, command: cmd.Command) -> None:
        match command:
            case cmd.Journal():
                raise InvalidState("a row within the commands that wait for another")
            case cmd.Assign(lease=lease, device=device):
                self._reception.leased(device, lease)
                known = self._machine.leases[lease]
                if known.state.is_final:
                    return
                if known.record.base_version in self._opened.models:
                    self._session.send(*self._words.assignment(command, self._opened.models))
                else:  # it has to be told again, and could not be fetched any more
                    self._tell(ev.ModelGone(version=known.record.base_version))
            case cmd.SendReceipt():
                self._session.send(*self._words.receipt(command))
            case cmd.Cancel():
                self._session.send(*self._words.cancel(command))
            case cmd.ComeBack():
                self._session.send(*self._words.come_back(command))
            case cmd.TakeUpload(lease=lease):
                self._intake.take(lease)
            case cmd.DropUpload(lease=lease):
                self._intake.drop(lease)
            case cmd.Fold(record=record):
                self._intake.decided(record.lease)
                self._versions.put(command)
            case cmd.Aggregate() | cmd.Forget():
                self._versions.put(command)
            case cmd.PublishModel():
                self._committed()
            case cmd.RepublishModel(digest=digest):
                self._session.repair(digest)
            case cmd.PublishRound():
                self._session.publish_round()
            case cmd.RoundEnded():
                self._round_ended(command)
            case cmd.WindowExtended():
                self._results.window_extended(command)
            case cmd.EvaluationDone():
                self._upkeep.put(partial(self._evaluated, command))
            case cmd.Finish(cause=cause):
                if not self._ended.done():
                    self._ended.set_result(cause)
            case _:
                assert_never(command)

    def _round_ended(self, ended: cmd.RoundEnded) -> None:
        participants = self._versions.participants if ended.outcome == "committed" else ()
        lag = None if self._lag is None else self._lag.end_round()
        record = partial(self._results.round_ended, ended, participants=participants, lag=lag, **self._bytes())
        self._upkeep.put_blocking(record)

    async def _evaluated(self, done: cmd.EvaluationDone) -> None:
        metrics = await self._run_blocking(Lane.DISK, partial(self._results.evaluated, done))
        self._machine.federated_metrics(done.version, metrics)

    def _bytes(self) -> dict[str, int]:
        return {"bytes_up": self._reception.bytes_up, "bytes_down": self._session.bytes_down}

    # carrying out

    def _committed(self) -> None:
        """The version's row is durable: its updates are no longer needed, and everybody may have it."""
        for lease in self._versions.spent:
            self._intake.drop(lease)
        self._versions.spent = ()
        state, version = self._opened.aggregation.state, self._machine.version
        is_best = 0 < self._machine.stopping.best_version == version
        keep = {*self._opened.models, version}
        tidy = partial(self._results.committed, state, keep, is_best=is_best)
        self._upkeep.put_blocking(tidy)
        self._session.committed(self._versions.blob)

    async def _grant(self) -> None:
        """Grant chunks as the budget allows, when something arrived and when nothing does."""
        while True:
            self._intake.changed.clear()
            for grant in self._uploads.grants(self._now(), unwritten_bytes=self._intake.unwritten_bytes):
                self._session.send(*self._words.grant(self._machine.leases[grant.lease].record.device, grant))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._uploads.deadline):
                    await self._intake.changed.wait()

    # the end

    async def _answer_the_last(self) -> None:
        """Stay until every device of the last round has checked in without its lease, or long enough."""
        longest = max(SHORTEST_ANSWER_S, self._settings.transfer.reconnect_window_s)
        if not self._settled.is_set():
            devices = sorted(self._machine.invitations.recent)
            log.info("last_devices_may_ask", devices=devices[:20], n=len(devices), at_most_s=longest)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._settled.wait()

    def _result(self, cause: str) -> RunResult:
        counts = {str(state): n for state, n in self._machine.leases.counts().items()}
        refused = {str(reason): n for reason, n in self._reception.refused.items()}
        lag = None if self._lag is None else self._lag.over_the_run()
        return self._results.result(cause, counts=counts, refused=refused, lag=lag, **self._bytes())
