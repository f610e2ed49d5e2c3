"""A task whose training takes the seconds that a scenario says, and not those of this machine.

Each batch of a device that is to take 0.4 s takes 0.4 s: what is left after the computing is slept through, which costs
no processor, so that fifty devices can train at the same time on two. A batch that computes for longer than that takes
what it takes. As in virtual time (`runs/training_time.py`), an evaluation, and a training that never calls `progress`,
take as long as one batch, and a training that is cancelled ends with its batch.

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
        begun, said = self._clock(), False

        def padded(steps_done: int, n_steps: int, **metrics: float) -> bool:
            nonlocal said
            said = True
            self._wait_until(begun + steps_done * self._batch_s)
            if share is not None and steps_done >= max(1, math.ceil(share * n_steps)):
                self._die()
            return work.progress(steps_done, n_steps, **metrics)

        trained = self._task.train(parameters, replace(work, progress=padded), client)
        if not said:
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
