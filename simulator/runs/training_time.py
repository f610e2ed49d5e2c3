"""How long a training takes in virtual time: batches x seconds a batch, whoever computes it and however fast.

The batches are those that the task names in its first `progress` call, cut where `max_seconds` are over. A task that
never calls it, or an evaluation, takes as long as one batch. So from the first call on it is known when a training
ends, and before it that it does not end within its first batch: what lets the rest of a fleet go on meanwhile.
"""

import math
from dataclasses import dataclass

__all__ = ["LEAST_BATCH_S", "TrainingTime"]

LEAST_BATCH_S = 1e-4
"""No device is faster: the loop takes timers that are closer than a microsecond for due together."""


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """One training.

    Args:
        begun_s: when it began, in seconds of the loop.
        batch_s: seconds a batch, >= LEAST_BATCH_S.
        n_batches: that it has.
    """

    begun_s: float
    batch_s: float
    n_batches: int

    @classmethod
    def of(cls, begun_s: float, batch_s: float, n_steps: int | None, max_seconds: float | None) -> "TrainingTime":
        """Return the time of a training whose task has named `n_steps` batches; None: it named none.

        With 0.3 s a batch and 1 s in all, `progress` says after the fourth (1.2 s) that the time is up.
        """
        n_batches = max(1, n_steps or 1)
        if max_seconds is not None:
            cut = max(1, math.ceil(max_seconds / batch_s) - 1)
            while cut * batch_s < max_seconds:
                cut += 1
            n_batches = min(n_batches, cut)
        return cls(begun_s, batch_s, n_batches)

    @property
    def seconds(self) -> float:
        """From its begin to its end."""
        return self.n_batches * self.batch_s

    @property
    def ends_s(self) -> float:
        """When it ends, in seconds of the loop."""
        return self.begun_s + self.seconds

    def fraction(self, now: float) -> float:
        """Return how much of it is over, in whole batches, as a task tells it: in [0, 1]."""
        return min(self.n_batches, math.floor((now - self.begun_s) / self.batch_s)) / self.n_batches

    def next_batch_s(self, now: float) -> float:
        """Return when the batch ends that is computed at `now`: there a cancelled training ends."""
        n = max(1, math.ceil((now - self.begun_s) / self.batch_s))
        return self.begun_s + min(n, self.n_batches) * self.batch_s

    def drop_s(self, share: float) -> float:
        """Return the end of the batch in which `share` of the training is over, share in [0, 1)."""
        return self.begun_s + max(1, math.ceil(share * self.n_batches)) * self.batch_s
