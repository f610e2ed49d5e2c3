"""How good a model is: on the server's own data, and on the devices'.

Central evaluation is the task's own `evaluate` without a client, in process here or in a process of its own
(`evaluation_process.py`), behind one interface. Federated evaluation sums what devices report: a ratio's numerators
and denominators are added and then divided, which is exact for accuracy and the like, where a mean of per-device
ratios is wrong; a plain float is averaged, weighted by examples. Beside the one number stand the 10th, 50th and 90th
percentile over devices, for a good mean can hide a bad tail.

Not here: who is asked to evaluate, and when (`federated_evaluation.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from shared.blocking import Lane, RunBlocking
from shared.errors import ConfigError
from shared.messages import WireMetric
from shared.parameters import ParameterSpec, Vector
from shared.task import Arrays, Evaluated, Initial, Metric, Ratio, Task

__all__ = [
    "DeviceReport",
    "Evaluator",
    "MetricSummary",
    "TaskEvaluator",
    "central_metrics",
    "evaluate",
    "federated_metrics",
    "initial",
]

DeviceReport: TypeAlias = tuple[str, int, tuple[tuple[str, WireMetric], ...]]
"""(device, num_examples, metrics)."""


class Evaluator(Protocol):
    """Asks the task for the first model and for central metrics. To be closed."""

    async def initial(self, seed: int) -> Initial:
        """Return the task's first model.

        Raises:
            ConfigError: the task cannot be loaded, or raised.
        """

    async def evaluate(self, vector: Vector, spec: ParameterSpec, constants: Arrays) -> Evaluated | None:
        """Evaluate a model on the server's data; None: the task has none.

        Args:
            vector: (n_params,) float32.
            spec: of the vector.
            constants: the model's integer arrays.

        Raises:
            ConfigError: the task raised, or returned what is no Evaluated.
        """

    async def close(self) -> None:
        """End whatever was started."""


class TaskEvaluator:
    """Central evaluation in this process, in the lane TRAINING: for tasks without torch, notebooks and simulations."""

    def __init__(self, task: Task, run_blocking: RunBlocking) -> None:
        self._task, self._run_blocking = task, run_blocking

    async def initial(self, seed: int) -> Initial:
        return await self._run_blocking(Lane.TRAINING, lambda: initial(self._task, seed))

    async def evaluate(self, vector: Vector, spec: ParameterSpec, constants: Arrays) -> Evaluated | None:
        return await self._run_blocking(Lane.TRAINING, lambda: evaluate(self._task, vector, spec, constants))

    async def close(self) -> None:
        return None


def initial(task: Task, seed: int) -> Initial:
    """Return a task's first model.

    Raises:
        ConfigError: the task raised, or returned what is no Initial.
    """
    try:
        found = task.initial_parameters(seed)
    except Exception as error:  # a user's task may raise anything
        raise ConfigError(f"initial_parameters raised {type(error).__name__}: {error}", where="task") from error
    if not isinstance(found, Initial):
        raise ConfigError(f"initial_parameters returned {type(found).__name__}, not an Initial", where="task")
    return found


def evaluate(task: Task, vector: Vector, spec: ParameterSpec, constants: Arrays) -> Evaluated | None:
    """Evaluate a model centrally.

    Raises:
        ConfigError: the task raised, or returned what is no Evaluated.
    """
    try:
        found = task.evaluate({**spec.unflatten(vector), **constants}, None, {})
    except Exception as error:  # a user's task may raise anything
        raise ConfigError(f"evaluate raised {type(error).__name__}: {error}", where="task") from error
    if found is None:
        return None
    if not isinstance(found, Evaluated):
        raise ConfigError(f"evaluate returned {type(found).__name__}, not an Evaluated or None", where="task")
    try:
        n_examples, metrics = int(found.num_examples), {n: _plain(n, m) for n, m in found.metrics.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"evaluate returned {found!r}, whose fields are not an Evaluated's", where="task") from error
    return Evaluated(num_examples=n_examples, metrics=metrics)


def central_metrics(evaluated: Evaluated) -> dict[str, float]:
    """Return metrics as plain numbers; a ratio without a denominator has none and is left out."""
    values = {name: _value(metric) for name, metric in evaluated.metrics.items()}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """One metric over the devices that reported it.

    Args:
        value: over all examples.
        p10: 10th percentile of the devices' own values; p50 and p90 likewise.
        n_devices: how many reported it.
    """

    value: float
    p10: float
    p50: float
    p90: float
    n_devices: int


def federated_metrics(reports: Sequence[DeviceReport]) -> dict[str, MetricSummary]:
    """Sum what devices report.

    A metric is a ratio when most devices that report it say so, and what others say of it is left out, as is what has
    no finite value: one device cannot change what a metric is, nor make it NaN.

    Args:
        reports: one a device.

    Returns:
        By metric, in alphabetical order.
    """
    names = sorted({name for _, _, metrics in reports for name, _ in metrics})
    summaries: dict[str, MetricSummary] = {}
    for name in names:
        found = [(n, dict(metrics)[name]) for _, n, metrics in reports if name in dict(metrics)]
        summary = _summary([(n, metric, value) for n, metric in found if (value := _value(metric)) is not None])
        if summary is not None:
            summaries[name] = summary
    return summaries


def _summary(found: list[tuple[int, WireMetric, float]]) -> MetricSummary | None:
    n_ratios = sum(isinstance(metric, tuple) for _, metric, _ in found)
    is_ratio = 2 * n_ratios > len(found)
    found = [entry for entry in found if isinstance(entry[1], tuple) is is_ratio]
    if not found:
        return None
    pairs = [metric if isinstance(metric, tuple) else (metric * n, n) for n, metric, _ in found]
    try:
        value = _value(Ratio(math.fsum(pair[0] for pair in pairs), math.fsum(pair[1] for pair in pairs)))
    except (OverflowError, ValueError):  # each is finite, together they are not
        return None
    with np.errstate(all="ignore"):
        p10, p50, p90 = (float(p) for p in np.percentile([own for _, _, own in found], [10, 50, 90]))
    if value is None or not all(map(math.isfinite, (p10, p50, p90))):
        return None
    return MetricSummary(value=value, p10=p10, p50=p50, p90=p90, n_devices=len(found))


def _plain(name: str, metric: Metric) -> Metric:
    """Return a metric in Python's own numbers, whatever library's it came in."""
    try:
        return Ratio(float(metric[0]), float(metric[1])) if isinstance(metric, tuple) else float(metric)
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"metric {name!r} is {metric!r}, not a number or a Ratio", where="task") from error


def _value(metric: WireMetric) -> float | None:
    if not isinstance(metric, tuple):
        return float(metric) if math.isfinite(metric) else None
    numerator, denominator = metric
    value = numerator / denominator if denominator > 0 else math.nan
    return float(value) if math.isfinite(value) else None
