import numpy as np

from aggregator.config import TransferSettings
from bench.cases import GRID
from bench.work import add_one, deviation, first_model


def test_work_proves_itself_after_any_number_of_rounds() -> None:
    """What n rounds made is recognised to the bit, and nothing else is."""
    model = first_model(4096)
    for _ in range(3):
        model = add_one(model)
    assert model.dtype == np.float32
    assert deviation(model, 3) == 0
    assert deviation(model, 4) == 1
    model[7] += 0.5
    assert deviation(model, 3) == 0.5


def test_work_leaves_the_received_model_alone() -> None:
    """A contender may keep the model it fetched."""
    model = first_model(64)
    add_one(model)
    assert deviation(model, 0) == 0


def test_first_model_has_no_two_equal_chunks() -> None:
    """Nothing can be saved by having seen a chunk before, up to the largest model of the grid."""
    starts = first_model(max(case.model_bytes for case in GRID))[:: TransferSettings().chunk_bytes // 4]
    assert len(set(starts.tolist())) == len(starts)
