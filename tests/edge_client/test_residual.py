from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from edge_client.files import OnDisk
from edge_client.local_state import LocalState
from edge_client.residual import RESIDUAL, with_residual, without_residual
from shared.task import BESIDE_MODEL
from tests.edge_client.builders import RUN, lease


def test_the_task_sees_its_own_state_alone() -> None:
    """What is joined comes apart again, and an evaluation does not take it for a model of the client's own."""
    residual = np.array([1, 2], np.float32)
    kept = with_residual({"head": np.ones(3)}, residual)
    own, found = without_residual(kept, 2)
    assert list(own) == ["head"]
    assert found is residual
    assert RESIDUAL.startswith(BESIDE_MODEL)
    assert without_residual({}, 2) == ({}, None)
    assert list(with_residual({"head": np.ones(3)}, None)) == ["head"]


@pytest.mark.parametrize(
    ("damaged", "cause"),
    [
        (np.zeros(3, np.float32), "shape (3,), and 2 values travel"),
        (np.zeros((1, 2), np.float32), "shape (1, 2)"),
        (np.zeros(2), "float64, not float32"),
        (np.array([0, np.nan], np.float32), "NaN or Inf"),
        (np.array([0, np.inf], np.float32), "NaN or Inf"),
    ],
)
def test_one_that_does_not_fit_is_named_and_left_out(
    damaged: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", cause: str
) -> None:
    """It would go into the model with the next update."""
    with capture_logs() as logs:
        assert without_residual({"head": np.ones(1), RESIDUAL: damaged}, 2)[1] is None
    assert [line["event"] for line in logs] == ["residual_damaged"]
    assert cause in logs[0]["cause"]


def test_it_is_kept_and_rolled_back_with_its_update(tmp_path: Path) -> None:
    """On disk, by the lease, as the task's own state is."""
    state = LocalState(OnDisk(tmp_path))
    for number, counts in ((1, True), (2, False), (3, True)):
        state.stage(lease(number), RUN, with_residual({}, np.array([number], np.float32)))
        (state.accept if counts else state.roll_back)(lease(number))
        _, found = without_residual(LocalState(OnDisk(tmp_path)).current(RUN), 1)
        assert found is not None
        assert found.tolist() == [{1: 1, 2: 1, 3: 3}[number]]
