"""A failure that goes on: one line at once, then one a minute with the count."""

from aggregator.summing_up import SUMMED_UP_S, Failures


def test_first_failure_is_told_and_the_others_summed_up() -> None:
    """A line a minute, each with what came since the line before."""
    failures = Failures()
    assert failures.failed(0.0) == 1
    assert [failures.failed(second) for second in (1.0, 30.0, SUMMED_UP_S - 0.1)] == [0, 0, 0]
    assert failures.failed(SUMMED_UP_S) == 4
    assert failures.failed(SUMMED_UP_S + 1.0) == 0


def test_success_tells_how_often_it_failed_and_begins_anew() -> None:
    """The next failure is told at once again."""
    failures = Failures()
    assert failures.went_well() == 0
    failures.failed(0.0)
    failures.failed(1.0)
    assert failures.went_well() == 2
    assert failures.went_well() == 0
    assert failures.failed(2.0) == 1
