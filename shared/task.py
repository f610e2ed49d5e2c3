"""What a user writes: one stateless task, and what it is given and gives back.

A task may be dropped and rebuilt between calls, in another process or on another machine: it keeps nothing in itself.
It never reads a clock, a socket or a cancel flag; one `progress` call does all three. *Device* is the hardware and its
id on the wire; *client* is what a task is told.

Not here: PyTorch (`torch_task/`), the flat vector (`parameters.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NewType, Protocol, TypeAlias, cast

from numpy.typing import NDArray

from shared.named_objects import load_named

__all__ = [
    "BESIDE_MODEL",
    "PERSONAL",
    "Arrays",
    "Client",
    "ClientId",
    "Evaluated",
    "Initial",
    "Metric",
    "Progress",
    "Ratio",
    "Task",
    "Trained",
    "TrainingCancelled",
    "Work",
    "load_task",
]

ClientId = NewType("ClientId", str)
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Named arrays, names as in a `state_dict`."""

BESIDE_MODEL = "~"
"""Names in a client's state that begin so are no part of its model, such as the moments of its optimizer. Every other
name is: the client then has a model of its own, which an evaluation looks at beside the global one."""

PERSONAL = "personal_"
"""Begins the name of a metric of a client's own model; the global model's has none."""


class Ratio(NamedTuple):
    """A metric that is summed over batches and clients, then divided.

    Exact for accuracy, sensitivity or bits a character, where a mean of per-client ratios is wrong.
    """

    numerator: float
    denominator: float


Metric: TypeAlias = float | Ratio
"""A plain float is averaged over clients, weighted by `num_examples`."""


class TrainingCancelled(BaseException):
    """Raised by `progress` when nobody wants the result any more. A task lets it pass."""


class Progress(Protocol):
    """Call it after each batch; the one place where a task meets time and cancelling."""

    def __call__(self, steps_done: int, n_steps: int, **metrics: float) -> bool:
        """Say how far training is.

        Returns:
            False when the time is up: return what you have.

        Raises:
            TrainingCancelled: let it pass.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Whose data it is. Hashable, so `functools.cache` works on a loader.

    Args:
        id: the device's id on the wire.
        data: the folder or file given as `--data`.
        partition: (i, n) in a rehearsal or simulation, None on a real device.
    """

    id: ClientId
    data: Path | None = None
    partition: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One assignment, decoded.

    Args:
        round_id: which round asks.
        seed: from (run seed, round, client): the only randomness there is.
        algorithm: as in `training.algorithm`: "fedsgd" wants a gradient, any other parameters after training.
        epochs: passes over the data; this or `max_steps`.
        max_steps: optimizer steps; this or `epochs`.
        max_seconds: when they are over, `progress` returns False; None: no limit.
        batch_size: examples a step; None: full batch.
        learning_rate: of the client optimizer, schedule already applied.
        options: the user's own numbers, `[training.options]`.
        state: what this client returned last and had accepted; {} at first.
        correction: by name, what the algorithm adds to the gradient of every step; {}: nothing. A name that it lacks
            is corrected by nothing.
        mu: the algorithm also adds mu x (parameters - received parameters) to the gradient of every step; 0: nothing.
        progress: to be called after each batch.
    """

    round_id: int
    seed: int
    algorithm: str
    epochs: int | None
    max_steps: int | None
    max_seconds: float | None
    batch_size: int | None
    learning_rate: float
    options: Mapping[str, float | str | bool]
    state: Arrays
    progress: Progress
    correction: Arrays = field(default_factory=dict)
    mu: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a client learned: exactly one of `parameters` and `gradient`.

    Args:
        parameters: after training; the client takes the delta.
        gradient: of the mean loss over all of the client's examples, for "fedsgd".
        num_examples: the weight of this update, >= 1.
        n_steps: optimizer steps taken.
        metrics: of training.
        state: kept on this client, current once the update is accepted; a device that keeps nothing takes {} alone.
    """

    parameters: Arrays | None = None
    gradient: Arrays | None = None
    num_examples: int
    n_steps: int
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Metrics of one model on one client's data, or on the server's."""

    num_examples: int
    metrics: Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class Initial:
    """The model before the first round.

    Args:
        parameters: every entry of the model, names as in a `state_dict`. Two names for the same memory are tied and
            travel once; integer arrays stay the server's.
        buffers: names that are averaged but never stepped by the server optimizer, such as running statistics.
    """

    parameters: Arrays
    buffers: frozenset[str] = frozenset()


class Task(Protocol):
    """One learning problem. Stateless; data is loaded lazily, for the client it is told to be."""

    def initial_parameters(self, seed: int) -> Initial:
        """Return the model before the first round; names, shapes and dtypes must not depend on `seed`."""

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Train from `parameters` on the client's own data."""

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Evaluate on the client's data; `client` None: centrally, on the aggregator. None: no data here.

        A client that has kept state (see `BESIDE_MODEL`) is asked twice: with {}, which is the global model, and with
        its state, whose metrics are reported as `personal_...`.
        """


_METHODS = ("initial_parameters", "train", "evaluate")


def load_task(spec: str, folder: Path) -> Task:
    """Import a task.

    Args:
        spec: "module:name", where name is a Task or a callable without arguments that returns one.
        folder: where the module is looked for first (the TOML's folder); then come the current folder and what is
            installed.

    Raises:
        ConfigError: the string is not of that form, the import fails, or what it names is no task.
    """
    return cast(Task, load_named("task", spec, folder, _METHODS, example="examples.digits:task"))
