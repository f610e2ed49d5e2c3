"""Devices of one process train one after the other: who waits for whom, and how far each is.

To its aggregator a device that waits for its turn looks like any that is slow; so it shows as progress how much of the
waiting and the training is behind it, and its lease lives on while those before it get on.

Pure. Not here: the waiting itself, which is the training lane's (`shared/blocking.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["InLine", "TrainingLine"]


class InLine(Protocol):
    """One training, running or waiting."""

    fraction: float
    """How far it is itself, in [0, 1]."""


class TrainingLine:
    """Every training of one process, in the order in which they will run."""

    def __init__(self) -> None:
        self._line: list[InLine] = []
        self._n_before: dict[int, int] = {}  # by identity: how many were before it when it came

    @contextmanager
    def place(self, training: InLine) -> Iterator[None]:
        """Stand in the line until the context ends; to be entered right before the lane is asked."""
        self._n_before[id(training)] = len(self._line)
        self._line.append(training)
        try:
            yield
        finally:
            self._line.remove(training)
            del self._n_before[id(training)]

    def fraction(self, training: InLine) -> float:
        """Return how much of the waiting and the training is over, in [0, 1].

        With two before it, the first of them half done: (0 + 1/2) / 3 = 1/6. One that has left the line, or has not
        come yet, is as far as it says itself.
        """
        if id(training) not in self._n_before:
            return training.fraction
        n_before = self._n_before[id(training)]
        n_over = max(0, n_before - self._line.index(training))
        return (n_over + self._line[0].fraction) / (n_before + 1)
