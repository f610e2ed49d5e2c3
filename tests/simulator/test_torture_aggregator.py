"""The wall clock of an aggregator under torture jumps as its plan says."""

import time

from simulator.torture_aggregator import wall_of

DAY_S = 86_400.0


def test_clock_jumps_when_its_time_has_come() -> None:
    """A day off from the start, right after a second."""
    passed = [100.0]
    wall = wall_of([(0.0, DAY_S), (1.0, -DAY_S)], monotonic=lambda: passed[0])
    assert abs(wall() - time.time() - DAY_S) < 60
    passed[0] += 1.0
    assert abs(wall() - time.time() + DAY_S) < 60


def test_clock_without_jumps_is_right() -> None:
    """Most lives have it."""
    assert abs(wall_of([])() - time.time()) < 60
