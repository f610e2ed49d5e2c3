"""One life of a device in virtual time: how long each of its trainings takes, and how far it is.

Training is real, its duration is not. The device's own code runs unchanged: its task is one that computes where the
executor says, its clock ticks by the batch while a task runs, its line says how far a training is by the loop's time,
and its training lane ends a piece of work when its batches are over. With processes the lane runs `carry_out` twice: at
the begin until it calls the task, whose arguments then go to a worker, and at the end with what came back. Where it
then calls the task once more (an evaluation of the client's own model beside the global one), it runs a third time.

Not here: how many seconds (`training_time.py`), who computes (`executors.py`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edge_client.training import Gate
from edge_client.training_line import InLine, TrainingLine
from shared.errors import InvalidState
from shared.task import Arrays, Client, Evaluated, Initial, Task, Trained, Work
from simulator.runs.computing import Call, Computed, Failure
from simulator.runs.executors import Executor, Job
from simulator.runs.training_time import LEAST_BATCH_S, TrainingTime
from simulator.virtual_time import VirtualTimeLoop

__all__ = ["Pace", "Spent"]

Spent = Callable[[float], None]
"""Is told how many seconds of training a device has spent, finished or not."""


class _PostponedError(BaseException):
    """The task was called: its arguments leave `carry_out` this way, which lets everything but errors pass."""

    def __init__(self, call: Call) -> None:
        self.call = call


@dataclass(slots=True)
class _Training:
    """The training that runs."""

    gate: InLine
    begun_s: float
    time: TrainingTime
    is_known: bool
    tickets: tuple[int, int]
    end: Callable[[Callable[[], Any]], None]
    work: Callable[[], Any]
    job: Job | None = None
    before: list[tuple[Computed, float]] = field(default_factory=list)
    """What came of its calls so far, and the seconds that each took."""
    result: Callable[[], Any] | None = None
    timer: asyncio.TimerHandle | None = None
    drop: asyncio.TimerHandle | None = None


class Pace:
    """What a device's life is given in place of threads and clocks.

    Args:
        task: the user's.
        batch_s: seconds a batch takes on this device.
        executor: who computes.
        drops_out: asked at each training: after which share of it the device drops out; None: it does not.
        die: called when it drops out.
        spent: see `Spent`.
    """

    def __init__(
        self,
        task: Task,
        batch_s: float,
        executor: Executor,
        *,
        drops_out: Callable[[], float | None] = lambda: None,
        die: Callable[[], None] = lambda: None,
        spent: Spent = lambda seconds: None,
    ) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise InvalidState("a pace is kept in virtual time only")
        self._loop, self._executor = loop, executor
        self._batch_s = max(batch_s, LEAST_BATCH_S)
        self._drops_out, self._die, self._spent = drops_out, die, spent
        self._placed: deque[InLine] = deque()
        self._running: _Training | None = None
        self._elapsed: float | None = None
        self._answers: list[tuple[Computed, float]] = []  # to the next calls of the task
        self.task: Task = _Elsewhere(task, self)
        self.line: TrainingLine = _Line(self)

    @property
    def is_training(self) -> bool:
        """Whether a training or an evaluation runs."""
        return self._running is not None

    def clock(self) -> float:
        """Return the loop's seconds; within a task, those that its batches took."""
        return self._loop.time() if self._elapsed is None else self._elapsed

    def begin(self, work: Callable[[], Any], end: Callable[[Callable[[], Any]], None]) -> None:
        """Begin the work that was placed next in line.

        Args:
            work: to be done; it calls the task.
            end: called when its time is over, with what returns or raises what came of it.
        """
        gate = self._placed.popleft()
        now = self._loop.time()
        training = _Training(
            gate=gate,
            begun_s=now,
            time=TrainingTime(now, self._batch_s, 1),
            is_known=False,
            tickets=(self._loop.ticket(), self._loop.ticket()),
            end=end,
            work=work,
        )
        self._running = training
        if isinstance(gate, Gate):
            gate.when_cancelled = partial(self._cancelled, training)
        self._do(training)

    def _do(self, training: _Training) -> None:
        """Do its work with the answers that there are; let the next call of the task be computed, if there is one."""
        self._elapsed, self._answers = 0.0, list(training.before)
        try:
            training.result = _kept(training.work)
        except _PostponedError as postponed:
            self._elapsed = None
            if training.before:
                training.time, training.is_known = TrainingTime(self._loop.time(), self._batch_s, 1), False
                training.tickets = (self._loop.ticket(), self._loop.ticket())
            share = None if training.before else self._drops_out()
            known = partial(self._known, training, share, postponed.call.work)
            training.job = self._executor.begin(postponed.call, training.time.begun_s + self._batch_s, known)
        else:
            self._elapsed = None
            if not training.before:  # nothing was asked of the task: there is nothing to wait for
                self._known(training, None, None, None, seconds=0.0)
        finally:
            self._elapsed, self._answers = None, []

    def close(self) -> None:
        """The life is over: nothing more comes of what runs."""
        training, self._running = self._running, None
        if training is not None:
            self._leave(training)
            self._spent(min(self._loop.time(), training.time.ends_s) - training.begun_s)

    def fraction(self, gate: InLine) -> float:
        """Return how far a training is, in [0, 1]; one that waits has not begun."""
        training = self._running
        if training is None or training.gate is not gate:
            return gate.fraction
        return training.time.fraction(self._loop.time()) if training.is_known else 0.0

    def called(self, call: Call) -> Trained | Evaluated | None:
        """Take the task's arguments, or give back what it returned for them."""
        if not self._answers:
            raise _PostponedError(call)
        computed, seconds = self._answers.pop(0)
        self._elapsed = (self._elapsed or 0.0) + seconds
        result = computed.result
        if isinstance(result, Failure):
            raise result.error()
        return result

    @property
    def batch_s(self) -> float:
        """Seconds a batch takes here."""
        return self._batch_s

    def placed(self, gate: InLine) -> None:
        """Somebody is about to ask for the training lane."""
        self._placed.append(gate)

    def _known(
        self, training: _Training, share: float | None, work: Work | None, n_steps: int | None, seconds: float = -1.0
    ) -> None:
        """Now it is known when a training ends."""
        if training is not self._running:
            return
        begun = training.time.begun_s
        most = None if work is None else work.max_seconds
        training.time = TrainingTime.of(begun, self._batch_s, n_steps, most)
        training.is_known = True
        ends_s = training.time.ends_s if seconds < 0 else begun + seconds
        first, second = training.tickets
        training.timer = self._loop.call_at_ticket(second, ends_s, self._finish, training)
        if share is not None:
            training.drop = self._loop.call_at_ticket(first, training.time.drop_s(share), self._drop)

    def _cancelled(self, training: _Training) -> None:
        """Nobody wants it any more: it ends with its batch."""
        if training is not self._running:
            return
        at_s = training.time.next_batch_s(self._loop.time())
        self._leave(training)
        training.result = lambda: None
        training.timer = self._loop.call_at_ticket(training.tickets[1], at_s, self._finish, training)

    def _drop(self) -> None:
        self.close()
        self._die()

    def _finish(self, training: _Training) -> None:
        if training.result is None:
            assert training.job is not None
            training.before.append((training.job.result(), training.time.seconds))
            self._do(training)
            if training.result is None:
                return  # the task was called once more
        self._leave(training)
        self._running = None
        self._spent(self._loop.time() - training.begun_s)
        training.end(training.result)

    def _leave(self, training: _Training) -> None:
        if training.job is not None:
            training.job.drop()
        for timer in (training.timer, training.drop):
            if timer is not None:
                timer.cancel()


def _kept(work: Callable[[], Any]) -> Callable[[], Any]:
    """Do work, and return what returns its result, or raises its error."""
    try:
        result = work()
    except (KeyboardInterrupt, SystemExit, _PostponedError):
        raise
    except BaseException as error:  # whatever it is, it is the caller's
        caught = error

        def fail() -> Any:
            raise caught

        return fail
    return lambda: result


class _Elsewhere:
    """The user's task, computed where the executor says."""

    def __init__(self, task: Task, pace: Pace) -> None:
        self._task, self._pace = task, pace

    def initial_parameters(self, seed: int) -> Initial:
        """See `Task`."""
        return self._task.initial_parameters(seed)

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """See `Task`."""
        call = Call(parameters=parameters, work=work, client=client, state={}, batch_s=self._pace.batch_s)
        result = self._pace.called(call)
        return result  # type: ignore[return-value] # a task may return anything, and carry_out says so

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """See `Task`."""
        assert client is not None
        call = Call(parameters=parameters, work=None, client=client, state=state, batch_s=self._pace.batch_s)
        result = self._pace.called(call)
        return result  # type: ignore[return-value] # a task may return anything, and carry_out says so


class _Line(TrainingLine):
    """Says how far a training is by virtual time; a device has its line for itself."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    @contextmanager
    def place(self, training: InLine) -> Iterator[None]:
        """See `TrainingLine`."""
        self._pace.placed(training)
        yield

    def fraction(self, training: InLine) -> float:
        """See `TrainingLine`."""
        return self._pace.fraction(training)
