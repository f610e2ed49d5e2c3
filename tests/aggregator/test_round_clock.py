"""The clock of a round: windows from what rounds took, extensions, back-off."""

import math

import pytest

from aggregator.config import RoundSettings, Window
from aggregator.round_clock import ROUNDS_REMEMBERED, RoundTimer


def a_timer(*, extensions: int = 2, lease_s: float | None = None) -> RoundTimer:
    """Return a timer whose window lies between 10 and 100 s."""
    window_s = Window(min=10, max=100)
    return RoundTimer(RoundSettings(report_goal=4, window_s=window_s, extensions=extensions, lease_s=lease_s))


def a_round(timer: RoundTimer, *seconds: float, device_class: str = "") -> None:
    """Let a round pass whose reports took that long."""
    timer.begin(0.0)
    for each in seconds:
        timer.reported(device_class, each)
    timer.turn()
    timer.end(0.0, is_committed=True)


def test_first_window_is_the_longest() -> None:
    """Nothing is known yet: a slow fleet must not be cut off."""
    timer = a_timer()
    timer.begin(5.0)
    assert (timer.closes_at, timer.deadline, timer.left_s(25.0)) == (105.0, 105.0, 80.0)


def test_window_is_one_and_a_half_times_the_95th_percentile_within_bounds() -> None:
    """Twenty reports of 1 to 20 s: the 95th percentile is the 20th, so 30 s; the bounds hold on both sides."""
    timer = a_timer()
    a_round(timer, *map(float, range(1, 21)))
    assert timer.window_s("") == 30.0
    a_round(timer, 1000.0, 1000.0)
    assert timer.window_s("") == 100.0
    quick = a_timer()
    a_round(quick, 0.1, 0.2)
    assert quick.window_s("") == 10.0


def test_window_looks_at_the_last_five_rounds_with_reports() -> None:
    """A slow round is forgotten after five others; rounds without a report say nothing."""
    timer = a_timer()
    a_round(timer, 60.0)
    for _ in range(10):
        a_round(timer)
    assert timer.window_s("") == 90.0
    for _ in range(ROUNDS_REMEMBERED):
        a_round(timer, 10.0)
    assert timer.window_s("") == 15.0


def test_each_class_has_its_window_and_the_slowest_that_is_asked_decides() -> None:
    """20 s for gateways, 60 s for phones; the longest for those of whom nothing is known, whoever else is asked."""
    timer = a_timer()
    a_round(timer, 20.0 / 1.5, device_class="gateway")
    a_round(timer, 40.0, device_class="phone")
    assert [timer.window_s(each) for each in ("gateway", "phone", "new")] == [pytest.approx(20.0), 60.0, 100.0]
    assert [timer.lease_s(each) for each in ("gateway", "phone")] == [pytest.approx(20.0), 60.0]
    timer.begin(1000.0)
    ends = []
    for classes in ({"gateway"}, {"gateway", "phone"}, {"gateway"}, {"new"}):
        timer.asked(classes)
        ends.append(timer.closes_at)
    assert ends == [pytest.approx(1020.0), 1060.0, 1060.0, 1100.0]


def test_window_that_has_grown_is_not_cut_by_who_is_asked_later() -> None:
    """An extension is half of the window that was, and stands."""
    timer = a_timer()
    a_round(timer, 40.0)
    timer.begin(0.0)
    timer.asked({""})
    assert timer.extend(60.0)
    timer.asked({"", "new"})
    assert timer.closes_at == 90.0


def test_window_that_is_widened_after_a_pause_leaves_the_pause_out() -> None:
    """100 s from the beginning, without the 50 s in which nobody could report."""
    timer = a_timer()
    a_round(timer, 40.0)
    timer.begin(0.0)
    timer.asked({""})
    timer.moved(50.0)
    assert timer.closes_at == 110.0
    timer.asked({"new"})
    assert timer.closes_at == 150.0


def test_restart_widens_the_window_only_for_a_slower_class() -> None:
    """12 s were left of 60 s: they stay, until somebody is asked who needs 40 s more."""
    timer = a_timer()
    a_round(timer, 40.0)
    timer.go_on(1000.0, 12.0, 0, {""})
    timer.asked({""})
    assert timer.closes_at == 1012.0
    timer.asked({"new"})
    assert timer.closes_at == 1052.0


def test_lease_lives_as_long_as_the_window_or_as_set() -> None:
    """Without a setting, a lease may go as long without progress as the round collects."""
    assert a_timer().lease_s("pi-4") == 100.0
    assert a_timer(lease_s=7.0).lease_s("pi-4") == 7.0


def test_window_grows_by_half_so_often() -> None:
    """Twice 50 s, then no more."""
    timer = a_timer()
    timer.begin(0.0)
    assert timer.extend(100.0)
    assert timer.closes_at == 150.0
    assert timer.extend(150.0)
    assert not timer.extend(200.0)
    assert timer.n_extensions == 2
    timer.begin(300.0)
    assert timer.n_extensions == 0


def test_backoff_doubles_from_the_shortest_window_to_the_longest() -> None:
    """10, 20, 40, 80, 100, 100 s; a committed round begins anew."""
    timer = a_timer()
    waits = []
    for _ in range(6):
        timer.begin(0.0)
        timer.end(0.0, is_committed=False)
        waits.append(timer.begins_at)
    assert waits == [10.0, 20.0, 40.0, 80.0, 100.0, 100.0]
    assert timer.deadline == 100.0
    timer.end(0.0, is_committed=True)
    assert timer.begins_at == -math.inf
    timer.begin(0.0)
    timer.end(0.0, is_committed=False)
    assert timer.begins_at == 10.0


def test_round_takes_from_its_beginning_to_its_end() -> None:
    """The seconds that stand in its record; then no deadline is left."""
    timer = a_timer()
    timer.begin(5.0)
    assert timer.end(47.0, is_committed=True) == 42.0
    assert timer.deadline is None
    assert timer.left_s(50.0) is None


def test_pause_moves_the_end() -> None:
    """Both ends; what is infinite stays so."""
    timer = a_timer()
    timer.begin(0.0)
    timer.moved(1000.0)
    assert (timer.closes_at, timer.begins_at) == (1100.0, -math.inf)
    timer.end(1100.0, is_committed=False)
    timer.moved(50.0)
    assert timer.begins_at == 1160.0


def test_restart_goes_on_with_what_was_left() -> None:
    """12 s and one extension were left of the window: so it is."""
    timer = a_timer()
    timer.go_on(1000.0, 12.0, 1, {""})
    assert timer.closes_at == 1012.0
    assert timer.extend(1012.0)
    assert not timer.extend(1062.0)


def test_time_left_is_never_negative() -> None:
    """A deadline that was told late."""
    timer = a_timer()
    timer.begin(0.0)
    assert timer.left_s(500.0) == pytest.approx(0.0)
