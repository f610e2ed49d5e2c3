"""What a training computes, apart from where: one call of a task, carried out in this process or in another.

A call is a value: what the task is given, and nothing else. `compute` is the same function for every executor, so that
the same numbers come out to the bit. What the task raises comes back as a name and a text, for a user's exceptions need
not survive the way between processes.

Not here: when it begins and ends in virtual time (`pace.py`), the processes (`executors.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from shared.task import Arrays, Client, Evaluated, Task, Trained, Work

__all__ = ["Call", "Computed", "Failure", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of `Task.train`, or of `Task.evaluate` when there is no work.

    Args:
        parameters: of the model.
        work: as the task gets it; its `progress` is replaced; None: evaluate.
        client: whose data it is.
        state: for an evaluation, what the client returned last.
        batch_s: virtual seconds a batch.
    """

    parameters: Arrays
    work: Work | None
    client: Client
    state: Arrays
    batch_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """What a task raised: the name of its class, and its text."""

    name: str
    text: str

    def error(self) -> Exception:
        """Return an exception that is called as the original was."""
        kind: type[Exception] = type(self.name, (Exception,), {})
        return kind(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What came of a call.

    Args:
        result: what the task returned, or how it failed.
        n_steps: batches that it named first; None: it named none.
    """

    result: Trained | Evaluated | Failure | None
    n_steps: int | None


def compute(task: Task, call: Call, announce: Callable[[int], object] = lambda n_steps: None) -> Computed:
    """Call the task.

    Args:
        task: the user's.
        call: what it is given.
        announce: told once how many batches it will be, as soon as the task has named them.
    """
    named: list[int] = []

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        assert call.work is not None
        if not named:
            named.append(n_steps)
            announce(n_steps)
        most = call.work.max_seconds
        return most is None or steps_done * call.batch_s < most

    try:
        result: Trained | Evaluated | Failure | None
        if call.work is None:
            result = task.evaluate(call.parameters, call.client, call.state)
        else:
            result = task.train(call.parameters, replace(call.work, progress=progress), call.client)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a user's task may raise anything, even SystemExit
        result = Failure(type(error).__name__, str(error))
    return Computed(result=result, n_steps=named[0] if named else None)


def as_found(arrays: Arrays) -> tuple[Arrays, tuple[str, ...]]:
    """Return arrays for another process, and which of them nobody may write to."""
    return arrays, tuple(name for name, array in arrays.items() if not array.flags.writeable)


def protect(arrays: Arrays, names: tuple[str, ...]) -> Arrays:
    """Return arrays of which those are read-only again, as they are in the process that they came from."""
    for name in names:
        array = np.asarray(arrays[name])
        array.flags.writeable = False
    return arrays
