"""Central evaluation in a child: the same answers, and its end is an error with a name."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from aggregator.evaluation_process import ProcessEvaluator
from shared.blocking import Threads
from shared.errors import ConfigError
from shared.parameters import ParameterSpec, constants_of
from shared.task import Evaluated, Ratio

TASK = """
import os, sys
import numpy as np
from shared.task import Evaluated, Initial, Ratio

print("a task may print")


class Quiet:
    def initial_parameters(self, seed):
        tied = np.full((2, 3), seed, np.float32)
        return Initial(
            {"a": tied, "var": np.ones(2), "b": tied, "h": np.array(0.5, np.float16), "n": np.array([7])},
            frozenset({"var"}),
        )

    def train(self, parameters, work, client):
        raise NotImplementedError

    def evaluate(self, parameters, client, state):
        print("evaluating")
        kind = int(parameters["n"][0])
        if kind == 1:
            return None
        if kind == 2:
            raise ZeroDivisionError("by hand")
        if kind == 3:
            os._exit(3)
        return Evaluated(num_examples=4, metrics={"sum": parameters["a"].sum(), "accuracy": Ratio(3, 4)})


task = Quiet()
"""


@pytest_asyncio.fixture
async def evaluator(tmp_path: Path) -> AsyncIterator[ProcessEvaluator]:
    """A child with the task above; it must have ended when the test has."""
    await asyncio.to_thread((tmp_path / "quiet_task.py").write_text, TASK)
    with Threads() as threads:
        found = ProcessEvaluator("quiet_task:task", tmp_path, threads)
        yield found
        await found.close()


def a_vector(spec: ParameterSpec) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """Return a model of ones."""
    return np.ones(spec.n_params, np.float32)


async def test_child_answers_as_the_task_itself_would(evaluator: ProcessEvaluator) -> None:
    """Ties, dtypes, scalars, buffers and integers of the first model survive; metrics come back as they were."""
    model = await evaluator.initial(5)
    spec = ParameterSpec.of(model)
    assert [str(entry) for entry in spec.entries] == [
        "a=b float32[2, 3] trainable",
        "var float64[2] buffer",
        "h float16[] trainable",
    ]
    assert model.parameters["a"].tolist() == [[5, 5, 5], [5, 5, 5]]
    assert constants_of(model)["n"].tolist() == [7]
    found = await evaluator.evaluate(a_vector(spec), spec, constants_of(model))
    assert found == Evaluated(num_examples=4, metrics={"sum": 6.0, "accuracy": Ratio(3.0, 4.0)})
    assert "quiet_task" not in sys.modules


async def test_child_goes_on_after_a_task_that_raised(evaluator: ProcessEvaluator) -> None:
    """An exception is named here, no data is None, and neither costs the process."""
    spec = ParameterSpec.of(await evaluator.initial(5))
    with pytest.raises(ConfigError, match="ZeroDivisionError: by hand"):
        await evaluator.evaluate(a_vector(spec), spec, {"n": np.array([2])})
    assert await evaluator.evaluate(a_vector(spec), spec, {"n": np.array([1])}) is None


async def test_child_that_dies_is_named_and_started_again(evaluator: ProcessEvaluator) -> None:
    """A crash of the task's libraries pauses the run, it does not end it."""
    spec = ParameterSpec.of(await evaluator.initial(5))
    with pytest.raises(ConfigError, match=r"quiet_task:task: .*ended with 3"):
        await evaluator.evaluate(a_vector(spec), spec, {"n": np.array([3])})
    assert await evaluator.evaluate(a_vector(spec), spec, {"n": np.array([1])}) is None


async def test_task_that_does_not_import_is_refused(tmp_path: Path) -> None:
    """The child's own error arrives with its cause and hint."""
    with Threads() as threads:
        evaluator = ProcessEvaluator("no_such_module:task", tmp_path, threads)
        with pytest.raises(ConfigError, match=r"(?s)importing 'no_such_module' failed.*looked in") as refused:
            await evaluator.initial(1)
        await evaluator.close()
    assert refused.value.exit_code == 2


async def test_close_before_the_first_question_and_twice_does_nothing(tmp_path: Path) -> None:
    """An aggregator that stops early starts no process."""
    with Threads() as threads:
        evaluator = ProcessEvaluator("quiet_task:task", tmp_path, threads)
        await evaluator.close()
        await evaluator.close()
        with pytest.raises(ConfigError, match="closed"):
            await evaluator.initial(1)
