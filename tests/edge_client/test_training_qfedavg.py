"""What a device asks of its own task when an update counts by the loss that it began with."""

from typing import Any

import numpy as np
import pytest
import structlog

from edge_client.training import Finished, Gate, carry_out
from shared.messages import Reported, WorkOrder
from shared.parameters import ParameterSpec
from shared.task import Client, ClientId, Ratio, Trained
from tests.edge_client.builders import an_order
from tests.edge_client.tasks import Scripted

WORK = WorkOrder(seed=1, algorithm="qfedavg", epochs=1, learning_rate=0.1)


def finished(**changes: Any) -> Finished:
    """Let a task of three parameters return what it should not, or should."""
    fields: dict[str, Any] = {"parameters": {"w": np.ones(3, np.float32)}, "num_examples": 1, "n_steps": 1, **changes}
    task = Scripted(n_params=3, script=lambda _, __: Trained(**fields))
    spec = ParameterSpec.of(task.initial_parameters(0))
    found = carry_out(
        an_order().model_copy(update={"work": WORK}),
        task=task,
        client=Client(id=ClientId("pi")),
        received=lambda: (spec, np.zeros(3, np.float32)),
        spec=spec,
        state=dict,
        gate=Gate(lambda: 0.0, None),
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, "result"),
        ({"metrics": {"initial_loss": -1.0}}, "result"),
        ({"metrics": {"initial_loss": float("nan")}}, "result"),
        ({"parameters": None, "gradient": {"w": np.ones(3, np.float32)}, "metrics": {"initial_loss": 1.0}}, "result"),
        ({"metrics": {"initial_loss": Ratio(6.0, 4)}}, ""),
    ],
)
def test_qfedavg_needs_the_loss_that_training_began_with(changes: dict[str, Any], error: str) -> None:
    """Without it, or with what is none, the device itself says that the task's result will not do."""
    with structlog.testing.capture_logs() as lines:
        report = finished(**changes).report
    assert report.error == error
    assert (report.outcome is Reported.TRAINED) == (not error)
    if not error:
        assert report.metrics["initial_loss"] == (6.0, 4.0)
    elif not changes:
        assert "qfedavg needs the metric 'initial_loss'" in lines[-1]["cause"]
