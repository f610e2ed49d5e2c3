from random import Random

import pytest

from edge_client.presence import Presence
from shared.errors import InvalidState, Reason
from shared.messages import MAX_HOLDS, Action, Holding, RetryWindow
from tests.edge_client.builders import EPOCH, RUN, TIMERS, a_control, a_fleet, a_round, lease


def a_presence() -> Presence:
    """A device on its first connection that knows its fleet."""
    presence = Presence(boot="b", spec="0" * 64, timers=TIMERS, rng=Random(1))
    presence.connected(1)
    presence.follow(a_fleet(), 0.0, retained=True)
    return presence


def due(presence: Presence) -> float:
    """When the next check-in is due; infinite when never."""
    return presence.deadline if presence.deadline is not None else float("inf")


def test_check_in_arms_the_next_only_when_idle() -> None:
    """A busy device does not check in at intervals."""
    presence = a_presence()
    presence.check_in([], 0.0, is_idle=False)
    assert due(presence) == float("inf")
    presence.check_in([], 0.0, is_idle=True)
    assert 24 <= due(presence) <= 36


def test_check_in_names_at_most_sixteen_leases_the_served_runs_first() -> None:
    """What does not fit is of other runs."""
    holds = [Holding(lease=lease(i), run="run-0") for i in range(20)] + [Holding(lease=lease(99), run=RUN)]
    named = a_presence().check_in(holds, 0.0, is_idle=True).holds
    assert len(named) == MAX_HOLDS
    assert named[0].lease == lease(99)


def test_fleet_that_says_zero_is_checked_in_with_once_a_second() -> None:
    """A device that does nothing but check in is of no use to anybody."""
    presence = a_presence()
    presence.follow(a_fleet().model_copy(update={"check_in_interval_s": 0.0}), 0.0, retained=False)
    presence.check_in([], 0.0, is_idle=True)
    assert due(presence) >= 0.8


def test_stale_epoch_is_told_from_a_new_one() -> None:
    """Lower is ignored, equal is fine, higher means a restart."""
    presence = a_presence()
    assert presence.is_stale(EPOCH - 1, 0.0)
    assert not presence.is_stale(EPOCH, 0.0)
    assert due(presence) == float("inf")
    assert not presence.is_stale(EPOCH + 1, 0.0)
    assert due(presence) <= 10
    assert presence.is_stale(EPOCH, 0.0)


def test_stale_fleet_changes_nothing() -> None:
    """The limits of an aggregator of the past do not hold."""
    presence = a_presence()
    assert presence.follow(a_fleet(run="run-0", epoch=EPOCH - 1), 0.0, retained=False) is None
    assert presence.run == RUN


def test_permanent_refusal_is_announced_once_a_cause() -> None:
    """Each cause is said once, until the aggregator gives work or another run is served."""
    presence = a_presence()
    control = a_control(Action.COME_BACK, retry_s=RetryWindow(min=1, max=1))
    assert presence.come_back(control, Reason.SPEC, 0.0) is not None
    assert presence.come_back(control, Reason.SPEC, 0.0) is None
    assert presence.come_back(control, Reason.PROTOCOL, 0.0) is not None
    presence.welcome()
    assert presence.refusal is None
    assert presence.come_back(control, Reason.PROTOCOL, 0.0) is not None


@pytest.mark.parametrize("reason", [None, Reason.NOT_DRAWN, Reason.PAUSED, Reason.NOT_ELIGIBLE])
def test_passing_refusal_only_moves_the_check_in(reason: Reason | None) -> None:
    """Not being drawn is nothing to tell a person."""
    presence = a_presence()
    control = a_control(Action.COME_BACK, retry_s=RetryWindow(min=70, max=80))
    assert presence.come_back(control, reason, 0.0) is None
    assert presence.refusal is None
    assert 70 <= due(presence) <= 80


def test_permanent_refusal_without_a_window_waits_hours() -> None:
    """Only a person can help, so nobody needs to be asked every minute."""
    presence = a_presence()
    presence.come_back(a_control(Action.UPGRADE), Reason.PROTOCOL, 0.0)
    assert 0.8 * 14400 <= due(presence) <= 1.2 * 14400


def test_explanation_is_wanted_once_unless_the_link_breaks() -> None:
    """Whoever began to explain may lose the link before the answer."""
    presence = a_presence()
    presence.saw(a_round())
    assert presence.ask_for_spec() is None
    presence.come_back(a_control(Action.COME_BACK, reason=Reason.SPEC), Reason.SPEC, 0.0)
    assert presence.ask_for_spec() is not None
    assert presence.ask_for_spec() is None
    presence.disconnected(0.0, taken_over=False)
    assert presence.ask_for_spec() is None
    presence.connected(2)
    assert presence.ask_for_spec() is not None
    presence.explained("w differs")
    assert presence.ask_for_spec() is None
    assert presence.refusal is not None
    assert presence.refusal.detail == "w differs"


def test_idle_device_always_speaks_again() -> None:
    """Work that ends without any timer running arms one."""
    presence = a_presence()
    presence.idle(5.0)
    assert 5.0 <= due(presence) <= 15.0


def test_two_connections_at_once_cannot_be() -> None:
    """A shell that says so has a bug."""
    presence = a_presence()
    with pytest.raises(InvalidState):
        presence.connected(2)
    presence.disconnected(0.0, taken_over=False)
    with pytest.raises(InvalidState):
        presence.disconnected(0.0, taken_over=False)


def test_epoch_of_an_earlier_life_is_the_floor() -> None:
    """After a reboot an aggregator that was superseded before it counts for nothing; a newer one is kept once."""
    presence = Presence(boot="b", spec="0" * 64, timers=TIMERS, rng=Random(1), epoch=EPOCH)
    presence.connected(1)
    assert presence.follow(a_fleet(epoch=EPOCH - 1), 0.0, retained=True) is None
    assert presence.fleet is None
    assert presence.follow(a_fleet(), 0.0, retained=True)
    assert presence.epoch_to_keep() is None
    assert not presence.is_stale(EPOCH + 1, 0.0)
    assert presence.epoch_to_keep() == EPOCH + 1
    assert presence.epoch_to_keep() is None


@pytest.mark.parametrize("epoch", [EPOCH, EPOCH + 1])
def test_first_retained_epoch_of_a_life_asks_for_no_second_check_in(epoch: int) -> None:
    """Whoever wrote it was there to hear the check-in of this connection, known from before or not."""
    presence = Presence(boot="b", spec="0" * 64, timers=TIMERS, rng=Random(1), epoch=EPOCH)
    presence.connected(1)
    presence.follow(a_fleet(epoch=epoch), 0.0, retained=True)
    assert presence.deadline is None


def test_check_in_says_the_class_of_the_device() -> None:
    """Windows, selection and the fairness report of the aggregator go by it."""
    presence = Presence(boot="b", spec="0" * 64, timers=TIMERS, rng=Random(1), device_class="pi-4")
    assert presence.check_in([], 0.0, is_idle=True).device_class == "pi-4"


@pytest.mark.parametrize("stateful", [True, False])
def test_check_in_says_whether_the_device_keeps_state(stateful: bool) -> None:
    """So that nobody gives it work that needs some."""
    presence = Presence(boot="b", spec="0" * 64, timers=TIMERS, rng=Random(1), stateful=stateful)
    presence.connected(1)
    assert presence.check_in([], 0.0, is_idle=True).keeps_state is stateful
