"""How late the loop is, counted so that a long stall weighs what it costs."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.loop_lag import TICK_S, Lags, LagSummary, LoopLag


def test_lag_of_a_loop_that_is_on_time_is_next_to_nothing() -> None:
    """A timer that wakes a millisecond late shows as a millisecond, in every figure."""
    lag = LoopLag()
    due = TICK_S
    for _ in range(1000):
        due = lag.woken(due, due + 0.001)
    summary = lag.over_the_run()
    assert summary is not None
    assert summary.p50 == summary.p99 == summary.max == 1.0


def test_stall_is_counted_at_every_point_of_the_grid_that_it_covers() -> None:
    """Ten seconds with one stall of a second: a tenth of those who came waited, half of them over half a second."""
    lag = LoopLag()
    due = lag.woken(TICK_S, TICK_S + 1.0)
    for _ in range(900):
        due = lag.woken(due, due)
    summary = lag.over_the_run()
    assert summary is not None
    assert summary.max == 1000.0
    assert 850.0 < summary.p99 <= 1000.0
    assert summary.p50 < 0.2


def test_next_point_lies_on_the_grid_and_in_the_future() -> None:
    """However late it was woken, the grid does not move."""
    due = LoopLag().woken(1.0, 1.0375)
    assert due == pytest.approx(1.04)


def test_round_begins_anew_and_the_run_goes_on() -> None:
    """A round's figures are its own; the run's keep the worst."""
    lag = LoopLag()
    lag.woken(1.0, 1.5)
    first = lag.end_round()
    lag.woken(2.0, 2.002)
    second, run = lag.end_round(), lag.over_the_run()
    assert first is not None
    assert second is not None
    assert run is not None
    assert (first.max, second.max, run.max) == (500.0, 2.0, 500.0)


def test_nothing_measured_is_nothing_said() -> None:
    """A round of no length has no percentile."""
    assert LoopLag().end_round() is None
    assert LoopLag().over_the_run() is None


@given(st.lists(st.floats(min_value=0, max_value=1e4), min_size=1))
def test_percentile_is_within_a_bucket_of_the_true_one(seconds: list[float]) -> None:
    """p50 <= p99 <= max, and each is at least the true value and at most a tenth above it, above the floor."""
    lags = Lags()
    for value in seconds:
        lags.add(value)
    summary = lags.summary()
    assert summary is not None
    assert summary.p50 <= summary.p99 <= summary.max
    assert summary.max == round(1000 * max(seconds), 2)
    true_s = sorted(seconds)[-(-99 * len(seconds) // 100) - 1]
    assert summary.p99 >= min(1000 * true_s, 50_000.0) - 0.01
    if true_s < 50:
        assert summary.p99 <= max(0.11, 1000 * true_s * 1.1)


async def test_real_loop_that_is_held_up_says_so() -> None:
    """A call of 60 ms on the loop is seen by the timer that was due meanwhile."""
    lag = LoopLag()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lag.run())
        await asyncio.sleep(0.02)
        time.sleep(0.06)  # noqa: ASYNC251 - the very thing that is to be seen
        await asyncio.sleep(0.02)
        task.cancel()
    summary = lag.over_the_run()
    assert isinstance(summary, LagSummary)
    assert summary.max >= 40.0
