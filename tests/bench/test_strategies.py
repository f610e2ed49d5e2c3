"""Ours beside Flower's strategies: what can be told without Flower."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.strategies import STRATEGIES, Inputs, StrategyCase, compared, some_inputs, strategies_table, walk

BY_NAME = {case.name: case for case in STRATEGIES}
F64 = NDArray[np.float64]


def a_few() -> Inputs:
    """Return the first three rounds of eight clients, fifty parameters."""
    whole = some_inputs()
    return Inputs(
        first=whole.first[:50],
        deltas=whole.deltas[:3, :8, :50],
        counts=whole.counts[:3, :8],
        losses=whole.losses[:3, :8],
    )


def test_inputs_are_a_function_of_the_seed() -> None:
    """The same for both, whoever makes them."""
    assert some_inputs(3).deltas.tobytes() == some_inputs(3).deltas.tobytes()
    assert some_inputs(3).deltas.tobytes() != some_inputs(4).deltas.tobytes()


@pytest.mark.parametrize("case", STRATEGIES, ids=lambda case: case.name)
def test_what_departs_walks_elsewhere_and_what_does_not_walks_alike(case: StrategyCase) -> None:
    """A departure that is named changes the model by more than rounding; where none is, nothing changes."""
    inputs = a_few()
    as_it_is, departing = (walk(case, inputs, departing=is_so) for is_so in (False, True))
    assert as_it_is.shape == (3, 50)
    assert (np.abs(as_it_is - departing).max() > 1e-3) == bool(case.departure)


def test_walk_departs_as_it_says() -> None:
    """Flower's FedAdam, written down here line by line, is ours with its departure."""
    inputs = a_few()
    w = inputs.first.astype(np.float64)
    m, v = np.zeros(50), np.zeros(50)
    for t, (deltas, counts) in enumerate(zip(inputs.deltas, inputs.counts, strict=True), start=1):
        delta = np.average(deltas.astype(np.float64), axis=0, weights=counts)
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        w = w + 0.01 * np.sqrt(1 - 0.99 ** (t + 1)) / (1 - 0.9 ** (t + 1)) * m / (np.sqrt(v) + 1e-3)
    assert walk(BY_NAME["FedAdam"], inputs, departing=True)[-1] == pytest.approx(w, abs=1e-6)


def test_comparison_is_the_largest_difference_of_any_round() -> None:
    """Ours against itself is 0; against a model that is off by 0.5 once, 0.5 where parameters are small."""
    inputs, case = a_few(), BY_NAME["FedAvg"]
    ours = walk(case, inputs, departing=False)
    assert set(compared(case, inputs, ours, ours).apart.values()) == {0.0}
    theirs = ours.copy()
    theirs[1, 7] = ours[1, 7] - 0.5
    found = compared(case, inputs, theirs, ours)
    assert found.apart["as it is"] == found.apart["departing"] == pytest.approx(0.5)
    assert found.apart["departing, float32"] == 0.0


def test_table_has_a_row_a_strategy() -> None:
    """And none when nothing was compared."""
    inputs, case = a_few(), replace(BY_NAME["FedAvg"], departure="it is another")
    ours = walk(case, inputs, departing=False)
    head, row = strategies_table([compared(case, inputs, ours, ours)])
    assert len(head) == len(row)
    assert row[:2] == ["FedAvg", "it is another"]
    assert strategies_table([]) == []
