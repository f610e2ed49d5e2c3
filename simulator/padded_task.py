"""A task whose training takes the seconds that a scenario says, and not those of this machine.

A training of ten batches on a device that is to take 0.4 s a batch takes 4 s: it is computed at once, and what is left
is slept through afterwards, batch by batch. Sleeping costs no processor, so that fifty devices can train at the same
time on two; and it is done outside of the task, for a `TorchTask` lets one training of a process compute at a time. One
that computes for longer than it is to take takes what it takes. As in virtual time (`runs/training_time.py`), an
evaluation, and a training that never calls `progress`, take as long as one batch; a training ends with the batch in
which it is cancelled, or in which `max_seconds` are over.

A device may also drop out in the midst of a training, as the scenario says: that is the end of its process.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from shared.task import Arrays, Client, Evaluated, Initial, Task, Trained, Work

__all__ = ["DropsOut", "PaddedTask"]

DropsOut: TypeAlias = Callable[[], float | None]
"""Asked at the begin of each training: after which share of it the device drops out; None: it does not."""


class PaddedTask:
    """See `Task`.

    Args:
        task: that learns.
        batch_s: seconds a batch; 0: as fast as this machine.
        drops_out: see there; None: never.
        die: ends this process.
        clock: monotonic seconds.
        sleep: for so many seconds.
    """

    def __init__(
        self,
        task: Task,
        batch_s: float,
        *,
        drops_out: DropsOut | None = None,
        die: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._task, self._batch_s, self._drops_out, self._die = task, batch_s, drops_out, die
        self._clock, self._sleep = clock, sleep

    def initial_parameters(self, seed: int) -> Initial:
        """As the task says."""
        return self._task.initial_parameters(seed)

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Train, and take the seconds that it is to take."""
        share = self._drops_out() if self._drops_out is not None else None
        begun, done, planned = self._clock(), 0, 0

        def computed(steps_done: int, n_steps: int, **metrics: float) -> bool:
            nonlocal done, planned
            done, planned = steps_done, n_steps
            if self._clock() >= begun + steps_done * self._batch_s and not work.progress(
                steps_done, n_steps, **metrics
            ):
                return False  # this machine is the slower one: it is asked as it goes
            return work.max_seconds is None or steps_done * self._batch_s < work.max_seconds

        trained = self._task.train(parameters, replace(work, progress=computed), client)
        last = max(1, math.ceil(share * planned)) if share is not None else math.inf
        for step in range(1, done + 1):
            self._wait_until(begun + step * self._batch_s)
            if step >= last:
                self._die()
            work.progress(step, planned)  # raises when the training was cancelled
        if not done:
            self._wait_until(begun + self._batch_s)
        return trained

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """As the task does; it takes a batch."""
        begun = self._clock()
        evaluated = self._task.evaluate(parameters, client, state)
        self._wait_until(begun + self._batch_s)
        return evaluated

    def _wait_until(self, due: float) -> None:
        if (left_s := due - self._clock()) > 0:
            self._sleep(left_s)
