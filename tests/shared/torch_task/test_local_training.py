import numpy as np
import pytest
from torch import nn

from shared.task import Ratio, TrainingCancelled
from shared.torch_task.local_training import INITIAL_LOSS
from tests.shared.torch_examples import CLIENT, a_task, as_received, some_data, some_work, train


def test_qfedavg_reports_the_loss_of_the_received_model_over_all_training_examples() -> None:
    """F_k(w) before the first step, of 600 examples in pieces of 256: that of an evaluation, without dropout."""

    def with_dropout() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    task = a_task(with_dropout, some_data(600), test_data=lambda client: some_data(600))
    received = as_received(task.initial_parameters(1))
    trained = task.train(received, some_work(algorithm="qfedavg"), CLIENT)
    evaluated = task.evaluate(received, CLIENT, {})
    assert evaluated is not None
    assert trained.metrics[INITIAL_LOSS] == evaluated.metrics["loss"]
    assert INITIAL_LOSS not in train(task).metrics


def test_qfedavg_names_its_steps_while_it_looks_and_can_be_cancelled() -> None:
    """The pass before the first step is no step; a cancel ends it."""
    seen: list[tuple[int, int]] = []

    def progress(steps_done: int, n_steps: int, **metrics: float) -> bool:
        seen.append((steps_done, n_steps))
        return True

    train(a_task(), algorithm="qfedavg", progress=progress)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def cancel(steps_done: int, n_steps: int, **metrics: float) -> bool:
        raise TrainingCancelled

    with pytest.raises(TrainingCancelled):
        train(a_task(), algorithm="qfedavg", progress=cancel)


def test_time_that_is_up_during_the_look_still_gives_one_step() -> None:
    """An update needs a step, and the loss is of all examples."""
    trained = train(a_task(), algorithm="qfedavg", progress=lambda done, n, **_: False)
    assert trained.n_steps == 1
    initial = trained.metrics[INITIAL_LOSS]
    assert isinstance(initial, Ratio)
    assert initial.denominator == 10
    assert np.isfinite(initial.numerator)
