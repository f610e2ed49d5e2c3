import pytest

from edge_client.phases import LEAST_STATUS_S, TRANSITIONS, LiveLease, Phase, check_transition
from shared.errors import InvalidState
from tests.edge_client.builders import an_order


@pytest.mark.parametrize("before", Phase)
@pytest.mark.parametrize("after", Phase)
def test_transition_outside_the_table_is_refused(before: Phase, after: Phase) -> None:
    """Only what the table names is legal."""
    if after in TRANSITIONS[before]:
        check_transition(before, after)
    else:
        with pytest.raises(InvalidState):
            check_transition(before, after)


def test_every_phase_can_be_left_and_reached() -> None:
    """The table has no trap: idle leads to every phase, and every phase back to idle."""
    for start, goal in ((Phase.IDLE, set(Phase)), *((phase, {Phase.IDLE}) for phase in Phase)):
        reached = {start}
        for _ in Phase:
            reached |= {after for before in reached for after in TRANSITIONS[before]}
        assert goal <= reached


@pytest.mark.parametrize(
    ("asked", "most", "every"), [(10.0, 60.0, 10.0), (900.0, 60.0, 60.0), (0.0, 60.0, LEAST_STATUS_S)]
)
def test_status_interval_is_the_assignments_within_bounds(asked: float, most: float, every: float) -> None:
    """The aggregator asks for a status so often; never more than one a second, never less than the device's own."""
    order = an_order().model_copy(update={"status_every_s": asked})
    assert LiveLease.begin(order, most, 0.0).status_every_s == every
