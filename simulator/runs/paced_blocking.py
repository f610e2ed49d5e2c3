"""`InlineBlocking` of a device whose trainings take as long as its pace says."""

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

from shared.blocking import Lane
from simulator.inline_blocking import DelayRange, InlineBlocking
from simulator.runs.pace import Pace

__all__ = ["PacedBlocking"]


class PacedBlocking(InlineBlocking):
    """See `InlineBlocking`; work of the lane TRAINING is left to the pace.

    Args:
        rng: where the other lanes' delays come from.
        delays: seconds that work of the other lanes takes.
        pace: of this life.
    """

    def __init__(self, rng: Random, delays: Mapping[Lane, DelayRange] | None, pace: Pace) -> None:
        super().__init__(rng, delays)
        self._pace = pace

    def close(self) -> None:
        """See `InlineBlocking`."""
        super().close()
        self._pace.close()

    def _begin(self, lane: Lane) -> None:
        if lane is Lane.TRAINING:
            self._pace.begin(self._queues[lane][0].work, self._end_training)
        else:
            super()._begin(lane)

    def _end_training(self, outcome: Callable[[], Any]) -> None:
        if not self._is_closed:
            done = self._queues[Lane.TRAINING][0].done
            self._end(Lane.TRAINING, partial(_settle, done, outcome))


def _settle(done: Any, outcome: Callable[[], Any]) -> None:
    try:
        result = outcome()
    except BaseException as error:  # TrainingCancelled is one: whatever it is, it is the caller's
        done.set_exception(error)
    else:
        done.set_result(result)
