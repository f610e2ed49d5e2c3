"""Whose state a device's next work goes on from."""

import numpy as np

from aggregator.device_states import Counted, DeviceStates, names_of
from shared.messages import WorkOrder
from tests.aggregator.builders import lease_name


def some_work(state_of: int | None) -> str:
    """Work that went on from the state of a lease, as its row has it."""
    order = WorkOrder(
        seed=1, algorithm="feddyn", learning_rate=0.1, state_of=None if state_of is None else lease_name(state_of)
    )
    return order.model_dump_json(exclude_none=True)


def books() -> DeviceStates:
    """Books in which lease 1 of device a is in a version."""
    states = DeviceStates(are_kept=True)
    states.accepted("a", lease_name(1))
    states.committed()
    return states


def test_newest_update_that_counts_is_gone_on_from() -> None:
    """From the moment in which it counts."""
    states = books()
    assert (states.of("a"), states.of("b")) == (lease_name(1), None)
    states.accepted("a", lease_name(2))
    assert states.of("a") == lease_name(2)


def test_voided_update_is_gone_back_from() -> None:
    """To the one before, which is in a version; or to nothing."""
    states = books()
    for device, before in (("a", lease_name(1)), ("b", None)):
        states.accepted(device, lease_name(2))
        states.voided(device)
        assert states.of(device) == before
    states.committed()
    assert states.of("a") == lease_name(1)


def test_lost_state_is_begun_anew() -> None:
    """Once the device says so of the newest; a word about older work says nothing of it."""
    states = books()
    states.lost("a", some_work(7))
    states.lost("a", "")
    assert states.of("a") == lease_name(1)
    states.lost("a", some_work(1))
    assert states.of("a") is None
    states.accepted("a", lease_name(3))
    states.lost("a", some_work(None))
    assert states.of("a") == lease_name(3)


def test_work_begins_when_it_goes_on_from_nothing() -> None:
    """Which its own row says: the books may have moved on."""
    states = books()
    assert states.begins(some_work(None))
    assert not states.begins(some_work(1))
    assert not states.begins("")


def test_version_file_is_believed_before_the_journal() -> None:
    """Rows may be lost in a repair: the version and what devices keep belong together. What was lost since stays so."""
    state = names_of({}, [Counted("a", lease_name(1), True), Counted("b", lease_name(2), True)])
    state = names_of(state, [Counted("a", lease_name(3), False), Counted("c", lease_name(4), True)])
    assert state["algorithm/devices"].dtype == np.uint64
    assert (np.diff(state["algorithm/devices"].astype(object)) > 0).all()
    assert state["algorithm/leases"].shape == (3, 16)
    states = books()
    states.accepted("c", lease_name(4))
    states.committed()
    states.lost("c", some_work(4))
    states.adopt(state)
    assert [states.of(device) for device in "abcd"] == [lease_name(3), lease_name(2), None, None]


def test_other_runs_keep_no_books() -> None:
    """Ten thousand devices cost nothing where nothing is kept."""
    states = DeviceStates(are_kept=False)
    states.accepted("a", lease_name(1))
    states.committed()
    states.lost("a", some_work(1))
    states.adopt({})
    assert states.of("a") is None
    assert not states.begins("no JSON at all")
