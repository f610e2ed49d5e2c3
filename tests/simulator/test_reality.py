import json

import pytest

from simulator.outcomes import ClassOutcomes, Outcomes
from simulator.reality import Comparison


def outcomes(
    median_s: float = 5.0, *, accepted: int = 80, late: int = 15, lost: int = 5, done: bool = True
) -> Outcomes:
    """A run whose rounds were all alike."""
    counted = ClassOutcomes(accepted=accepted, too_late=late, lost=lost, devices={"a-1"})
    return Outcomes(
        committed=2, abandoned=0, seconds=[median_s] * 2, by_class={"a": counted}, starts=1, is_finished=done
    )


@pytest.mark.parametrize(
    ("virtual", "is_within"),
    [
        (outcomes(), True),
        (outcomes(5.99), True),
        (outcomes(4.01), True),
        (outcomes(6.01), False),
        (outcomes(3.99), False),
        (outcomes(accepted=84, late=11), True),
        (outcomes(accepted=86, late=9), False),
        (outcomes(late=9, lost=11), False),
        (outcomes(done=False), False),
    ],
)
def test_simulator_foretells_within_a_fifth_of_a_round_and_five_points(virtual: Outcomes, is_within: bool) -> None:
    """A median round of 5 s may be 4 to 6 s, and each of 80, 15 and 5 percent five points off; no further."""
    compared = Comparison(real=outcomes(), virtual=virtual)
    assert compared.is_within is is_within
    assert list(compared.lines())[-1].startswith("the simulator foretells" if is_within else "THEY ARE")
    assert json.loads(compared.as_json())["is_within"] is is_within


def test_run_without_rounds_foretells_nothing() -> None:
    """There is no median to be within."""
    nothing = Outcomes(committed=0, abandoned=0, seconds=[], by_class={}, starts=1, is_finished=True)
    compared = Comparison(real=nothing, virtual=outcomes())
    assert not compared.is_within
    assert json.loads(compared.as_json())["median_off"] is None
