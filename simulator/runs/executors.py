"""Where trainings are computed: in this process, or on all cores while virtual time goes on.

Both begin a call at an instant of virtual time and hand over what came of it when it is asked for. With processes the
loop may run ahead of what is not known yet, but never past it: before the clock is set forward (`hold`), every training
whose first batch would then be over must have named its batches; and whoever asks for a result waits for it, in real
time. What happens in virtual time is therefore the same, to the bit.
"""

import heapq
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Protocol, Self, TypeAlias

from shared.errors import FederationError
from shared.task import Progress, Task, load_task
from simulator.runs.computing import Call, Computed, as_found, compute, protect

__all__ = ["Executor", "Inline", "Job", "Processes"]

RESOLUTION_S = 2e-6
"""Twice the loop's: a timer this close to where the clock is set may be taken together with it."""
WAIT_S = 1.0
"""Real seconds after which somebody who waits looks whether the workers are still there."""

Known: TypeAlias = Callable[[int | None], None]
"""Is told, once, how many batches a training has: at the latest when virtual time would pass its first."""


class Job(Protocol):
    """One call under way."""

    def result(self) -> Computed:
        """Return what came of it; wait for it, in real time, when it is not there yet."""

    def drop(self) -> None:
        """Nobody wants it any more."""


class Executor(Protocol):
    """Computes calls."""

    is_inline: bool
    """Whether a call is computed at once, in this process."""

    def begin(self, call: Call, first_batch_s: float, known: Known) -> Job:
        """Begin a call at this instant of virtual time.

        Args:
            call: what to compute.
            first_batch_s: when its first batch is over, in seconds of the loop; before that nobody needs anything.
            known: see `Known`.
        """

    def hold(self, until_s: float) -> None:
        """Wait, in real time, for whatever must be known before the clock is set to `until_s`."""

    def __enter__(self) -> Self:
        """Return itself; what it has started ends with the context."""

    def __exit__(self, *_: object) -> None:
        """End what it has started."""


@dataclass(slots=True)
class _Done:
    computed: Computed

    def result(self) -> Computed:
        return self.computed

    def drop(self) -> None:
        pass


class Inline:
    """Computes at once."""

    is_inline = True

    def __init__(self, task: Task) -> None:
        self._task = task

    def begin(self, call: Call, first_batch_s: float, known: Known) -> Job:
        """See `Executor`."""
        computed = compute(self._task, call)
        known(computed.n_steps if call.work is not None else None)
        return _Done(computed)

    def hold(self, until_s: float) -> None:
        """Nothing is ever unknown."""

    def __enter__(self) -> Self:
        """See `Executor`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""


class _Remote:
    """A call in another process."""

    def __init__(self, pool: "Processes", first_batch_s: float, known: Known) -> None:
        self._pool, self._known = pool, known
        self.first_batch_s = first_batch_s
        self.future: Future[Computed] | None = None
        self.is_settled = False

    def settle(self, n_steps: int | None) -> None:
        if not self.is_settled:
            self.is_settled = True
            self._known(n_steps)

    def result(self) -> Computed:
        assert self.future is not None
        return self._pool.wait_for(self.future)

    def drop(self) -> None:
        self.is_settled = True
        if self.future is not None:
            self.future.cancel()


class Processes:
    """Computes on all cores. To be used as a context.

    Args:
        spec: of the task, "module:name".
        folder: in which its module may lie.
        n_workers: processes; None: one a core.
    """

    is_inline = False

    def __init__(self, spec: str, folder: Path, *, n_workers: int | None = None) -> None:
        self._n_workers = n_workers or len(os.sched_getaffinity(0))
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._announced: SimpleQueue[tuple[int, int] | None] = context.SimpleQueue()
        self._pool = ProcessPoolExecutor(
            self._n_workers, mp_context=context, initializer=_open, initargs=(spec, folder, self._announced)
        )
        self._news = threading.Condition()
        self._steps: list[tuple[int, int]] = []
        self._jobs: dict[int, _Remote] = {}
        self._unknown: list[tuple[float, int]] = []
        self._n_jobs = 0
        self._listener = threading.Thread(target=self._listen, name="announcements", daemon=True)

    def __enter__(self) -> Self:
        """Start listening to workers; they start when there is work."""
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers; what they compute is not waited for longer than its end."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._announced.put(None)
        self._listener.join()
        self._announced.close()

    def begin(self, call: Call, first_batch_s: float, known: Known) -> Job:
        """See `Executor`."""
        self._n_jobs += 1
        number = self._n_jobs
        job = _Remote(self, first_batch_s, known)
        parameters, frozen = as_found(call.parameters)
        work = None if call.work is None else replace(call.work, progress=_silent)
        try:
            job.future = self._pool.submit(_compute, number, replace(call, parameters=parameters, work=work), frozen)
        except BrokenExecutor as error:
            raise FederationError(f"the processes that train are gone: {error}") from error
        job.future.add_done_callback(self._on_done)
        if call.work is None:
            job.settle(None)
        else:
            self._jobs[number] = job
            heapq.heappush(self._unknown, (first_batch_s, number))
        return job

    def hold(self, until_s: float) -> None:
        """See `Executor`."""
        while self._unknown and self._unknown[0][0] <= until_s + RESOLUTION_S:
            number = self._unknown[0][1]
            self._take_news()
            job = self._jobs[number]
            if not job.is_settled:
                assert job.future is not None
                if job.future.done():  # without a word, or with its word just behind
                    self._take_news()
                    job.settle(self.wait_for(job.future).n_steps)
                else:
                    with self._news:
                        if not self._steps and not job.future.done():
                            self._news.wait(WAIT_S)
                    continue
            heapq.heappop(self._unknown)
            del self._jobs[number]

    def wait_for(self, future: "Future[Computed]") -> Computed:
        """Return a result.

        Raises:
            FederationError: the worker died of it.
        """
        try:
            return future.result()
        except BrokenExecutor as error:
            raise FederationError(
                "a process that trains has died, perhaps for want of memory: see the lines above"
            ) from error

    def _take_news(self) -> None:
        with self._news:
            steps, self._steps = self._steps, []
        for number, n_steps in steps:
            job = self._jobs.get(number)
            if job is not None:
                job.settle(n_steps)

    def _listen(self) -> None:
        """Take what workers announce, in a thread: a full pipe would stop them."""
        while (word := self._announced.get()) is not None:
            with self._news:
                self._steps.append(word)
                self._news.notify_all()

    def _on_done(self, _: object) -> None:
        with self._news:
            self._news.notify_all()


def _silent(steps_done: int, n_steps: int, **metrics: float) -> bool:
    """Stand in for `progress` on the way to a worker."""
    return True


_progress: Progress = _silent
_task: Task | None = None
_announce: "SimpleQueue[tuple[int, int] | None] | None" = None


def _open(spec: str, folder: Path, announced: "SimpleQueue[tuple[int, int] | None]") -> None:
    """Begin a worker: import the task."""
    global _task, _announce
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to all: the simulation ends its workers
    _task, _announce = load_task(spec, folder), announced


def _compute(number: int, call: Call, frozen: tuple[str, ...]) -> Computed:
    assert _task is not None
    assert _announce is not None
    words = _announce
    call = replace(call, parameters=protect(call.parameters, frozen))
    return compute(_task, call, lambda n_steps: words.put((number, n_steps)))
