"""Metrics are summed as they must be, and a task's mistakes are the operator's to read."""

import asyncio
import math
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.evaluation import DeviceReport, TaskEvaluator, central_metrics, federated_metrics
from shared.blocking import Lane
from shared.errors import ConfigError
from shared.messages import WireMetric
from shared.parameters import ParameterSpec, constants_of
from shared.task import Arrays, Client, Evaluated, Initial, Ratio, Task, Trained, Work

T = TypeVar("T")


class MeanTask:
    """A model of one number; its metrics say what it was given."""

    def initial_parameters(self, seed: int) -> Initial:
        """Return the seed as the model."""
        return Initial({"w": np.array([seed], np.float32), "n": np.array(3)})

    def train(self, parameters: Arrays, work: Work, client: Client) -> Trained:
        """Return what came."""
        return Trained(parameters=parameters, num_examples=1, n_steps=1)

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Return metrics in NumPy's own types."""
        assert client is None
        metrics = {"w": parameters["w"].sum(), "n": float(parameters["n"]), "accuracy": Ratio(3, 4)}
        return Evaluated(num_examples=4, metrics=metrics)


class BrokenTask(MeanTask):
    """Fails at everything."""

    def initial_parameters(self, seed: int) -> Initial:
        """Raise."""
        raise RuntimeError("no model today")

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Raise."""
        raise FileNotFoundError("test.csv")


async def inline(lane: Lane, work: Callable[[], T]) -> T:
    """Run work at once."""
    assert lane is Lane.TRAINING
    await asyncio.sleep(0)
    return work()


async def test_task_evaluator_gives_the_task_the_whole_model() -> None:
    """Parameters and integers arrive by name, and plain numbers come back."""
    evaluator = TaskEvaluator(MeanTask(), inline)
    model = await evaluator.initial(5)
    spec = ParameterSpec.of(model)
    found = await evaluator.evaluate(spec.flatten(model.parameters), spec, constants_of(model))
    await evaluator.close()
    assert found == Evaluated(num_examples=4, metrics={"w": 5.0, "n": 3.0, "accuracy": Ratio(3.0, 4.0)})
    assert central_metrics(found) == {"w": 5.0, "n": 3.0, "accuracy": 0.75}


async def test_task_that_raises_is_named_with_its_exception() -> None:
    """The operator reads what the task raised, not a traceback."""
    evaluator = TaskEvaluator(BrokenTask(), inline)
    with pytest.raises(ConfigError, match="RuntimeError: no model today"):
        await evaluator.initial(1)
    spec = ParameterSpec.of(MeanTask().initial_parameters(1))
    with pytest.raises(ConfigError, match=r"FileNotFoundError: test\.csv"):
        await evaluator.evaluate(np.zeros(1, np.float32), spec, {})


@pytest.mark.parametrize(
    "returned", [0.5, {"accuracy": 0.5}, Evaluated(num_examples=1, metrics={"a": cast(float, "x")})]
)
async def test_task_that_returns_something_else_is_refused(returned: object) -> None:
    """A wrong type is found where it is made."""

    class Wrong(MeanTask):
        def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
            return cast(Evaluated, returned)

    spec = ParameterSpec.of(MeanTask().initial_parameters(1))
    with pytest.raises(ConfigError, match="not a"):
        await TaskEvaluator(cast(Task, Wrong()), inline).evaluate(np.zeros(1, np.float32), spec, {})


def test_ratio_without_a_denominator_is_left_out() -> None:
    """Sensitivity over no positives is no number."""
    assert central_metrics(Evaluated(num_examples=1, metrics={"sensitivity": Ratio(0, 0), "loss": 1.5})) == {
        "loss": 1.5
    }


def test_federated_ratio_is_the_number_worked_by_hand() -> None:
    """9 of 10 and 10 of 90 right: 19 / 100 = 0.19, where the mean of 0.9 and 0.111 would say 0.51."""
    reports = [("a", 10, (("accuracy", (9.0, 10.0)),)), ("b", 90, (("accuracy", (10.0, 90.0)),))]
    summary = federated_metrics(reports)["accuracy"]
    assert summary.value == pytest.approx(0.19)
    assert summary.p50 == pytest.approx((0.9 + 1 / 9) / 2)
    assert summary.n_devices == 2


def test_federated_float_is_weighted_by_examples() -> None:
    """Loss 1 on 30 examples and 2 on 10: 1.25."""
    reports = [("a", 30, (("loss", 1.0),)), ("b", 10, (("loss", 2.0),))]
    assert federated_metrics(reports)["loss"].value == pytest.approx(1.25)


def test_percentiles_are_those_of_the_devices() -> None:
    """Of 11 devices with accuracy 0, 0.1, … 1: 10 % at 0.1, half at 0.5, 90 % at 0.9, whatever their size."""
    reports = [(f"d{i}", 10**i, (("accuracy", (float(i), 10.0)),)) for i in range(11)]
    summary = federated_metrics(reports)["accuracy"]
    assert (summary.p10, summary.p50, summary.p90) == pytest.approx((0.1, 0.5, 0.9))


def test_one_device_changes_neither_the_kind_of_a_metric_nor_makes_it_nan() -> None:
    """What disagrees with most, or has no value, is left out."""
    good: list[DeviceReport] = [(f"d{i}", 10, (("accuracy", (5.0, 10.0)),)) for i in range(3)]
    bad: list[DeviceReport] = [
        ("x", 10**12, (("accuracy", 0.0),)),
        ("y", 1, (("accuracy", (5.0, 0.0)),)),
        ("z", 1, (("loss", float("nan")),)),
    ]
    summaries = federated_metrics([*good, *bad])
    assert list(summaries) == ["accuracy"]
    assert (summaries["accuracy"].value, summaries["accuracy"].n_devices) == (0.5, 3)


def test_nothing_reported_gives_nothing() -> None:
    """An evaluation that nobody answered has no metrics."""
    assert federated_metrics([]) == {}


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), min_size=1, max_size=20))
def test_ratio_summed_over_devices_is_that_of_all_examples(counts: list[tuple[int, int]]) -> None:
    """However the data are split, accuracy is that of the union, and lies within the devices' own."""
    reports = [(f"d{i}", n, (("accuracy", (float(min(right, n)), float(n))),)) for i, (n, right) in enumerate(counts)]
    total, right = sum(n for n, _ in counts), sum(min(right, n) for n, right in counts)
    summary = federated_metrics(reports)["accuracy"]
    assert summary.value == pytest.approx(right / total)
    own = [min(right, n) / n for n, right in counts]
    assert min(own) - 1e-9 <= summary.value <= max(own) + 1e-9


@pytest.mark.parametrize("metric", [1.7e308, (1.7e308, 1.0), (1.0, 1.7e308)])
def test_numbers_that_are_too_large_together_give_no_metric_and_no_error(metric: WireMetric) -> None:
    """Each is finite and passes admission: two diverged or hostile devices must not end the run."""
    reports: list[DeviceReport] = [("a", 1, (("loss", metric),)), ("b", 1, (("loss", metric),))]
    summary = federated_metrics(reports).get("loss")
    assert summary is None or math.isfinite(summary.value)


def test_opposite_overflows_give_no_metric_and_no_error() -> None:
    """Plain numbers are weighted by examples, which takes them to both infinities."""
    reports: list[DeviceReport] = [("a", 2**53 - 1, (("loss", 1e308),)), ("b", 2**53 - 1, (("loss", -1e308),))]
    assert federated_metrics(reports) == {}


class OddTask(MeanTask):
    """Returns an Evaluated that is none."""

    def evaluate(self, parameters: Arrays, client: Client | None, state: Arrays) -> Evaluated | None:
        """Return fields of other types."""
        return Evaluated(num_examples=cast(int, "many"), metrics=cast(dict[str, float], None))


async def test_fields_of_other_types_are_the_operators_to_read() -> None:
    """No traceback, and no end of a run that could go on without metrics."""
    evaluator = TaskEvaluator(OddTask(), inline)
    model = OddTask().initial_parameters(1)
    spec = ParameterSpec.of(model)
    with pytest.raises(ConfigError, match="many"):
        await evaluator.evaluate(spec.flatten(model.parameters), spec, constants_of(model))
