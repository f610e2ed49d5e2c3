from edge_client.finished_runs import QUIET_S, FinishedRuns


def test_live_word_is_believed_at_once_and_said_once() -> None:
    """A run that ends while the device watches is over."""
    runs = FinishedRuns(lambda run: True)
    runs.finished("a", 5.0, retained=False)
    assert runs.deadline == 5.0
    assert runs.over(5.0) == ["a"]
    assert runs.over(6.0) == []


def test_retained_word_is_believed_after_a_while() -> None:
    """The next aggregator may be starting beside it; a second copy does not move the time."""
    runs = FinishedRuns(lambda run: True)
    runs.finished("a", 0.0, retained=True)
    runs.finished("a", 10.0, retained=True)
    assert runs.over(QUIET_S - 1) == []
    assert runs.over(QUIET_S) == ["a"]


def test_run_that_goes_on_is_not_over() -> None:
    """More rounds were asked for."""
    runs = FinishedRuns(lambda run: True)
    runs.finished("a", 0.0, retained=True)
    runs.goes_on("a")
    assert runs.deadline is None
    assert runs.over(1000.0) == []


def test_run_is_not_over_while_something_of_it_is_here() -> None:
    """A report without its final outcome keeps it open, without a deadline that would spin."""
    here = {"a"}
    runs = FinishedRuns(lambda run: run not in here)
    runs.finished("a", 0.0, retained=False)
    assert runs.deadline is None
    assert runs.over(1000.0) == []
    here.clear()
    assert runs.over(1000.0) == ["a"]
