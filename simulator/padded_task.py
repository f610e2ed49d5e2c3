"""A task whose training takes the seconds that a scenario says, and not those of this machine.

Each batch of a device that is to take 0.4 s takes 0.4 s: what is left after the computing is slept through, which costs
no processor, so that fifty devices can train at the same time on two. A batch that computes for longer than that takes
what it takes.

A device may also drop out in the midst of a training, as the scenario says: that is the end of its process.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from shared.task import Arrays, Client, Evaluated, Initial, Task, Trained, Work

__all__ = ["DropsOut", "PaddedTask"]

LOOK_EVERY_S = 0.2
"""While it sleeps: whether the training was cancelled, or its time is up."""

DropsOut = Callable[[], float | None]
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
        begun, progress = self._clock(), work.progress

        def padded(steps_done: int, n_steps: int, **metrics: float) -> bool:
            if share is not None and n_steps and steps_done >= share * n_steps:
                self._die()
            due = begun + steps_done * self._batch_s
            while (left_s := due - self._clock()) > 0:
                self._sleep(min(left_s, LOOK_EVERY_S))
                if not progress(max(0, steps_done - 1), n_steps):  # raises when the training was cancelled
                    return False
            return progress(steps_done, n_steps, **metrics)

        return self._task.train(parameters, replace(work, progress=padded), client)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """As the task does."""
        return self._task.evaluate(parameters, client, state)
