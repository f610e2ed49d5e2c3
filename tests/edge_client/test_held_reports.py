from random import Random

import pytest

from edge_client.held_reports import OFFERS_UNTIL_PARKED, HeldReports, jittered
from shared.errors import InvalidState
from shared.messages import RetryWindow
from tests.edge_client.builders import RUN, TIMERS, a_held_report, lease


def some_reports(*numbers: int) -> HeldReports:
    """Reports of an outbox, of the run that is served."""
    held = HeldReports(TIMERS, Random(1), [a_held_report(number) for number in numbers])
    held.serve(RUN)
    return held


def test_jitter_stays_within_a_fifth() -> None:
    """A wait is drawn within ± 20 %, and not always the same."""
    waits = {jittered(100, Random(seed)) for seed in range(50)}
    assert min(waits) >= 80
    assert max(waits) <= 120
    assert len(waits) == 50


def test_report_is_due_after_its_patience() -> None:
    """An offer without an answer is due again; until then nothing is."""
    held = some_reports(1)
    held.offer(lease(1), 0.0)
    assert held.due(20.0) == ([], [])
    assert held.due(36.0) == ([lease(1)], [])


def test_acknowledged_offer_is_asked_about_from_then_on() -> None:
    """On a slow link the wait for the answer begins when the offer has left."""
    held = some_reports(1)
    held.offer(lease(1), 0.0)
    held.sent(lease(1), 100.0)
    assert held.due(120.0) == ([], [])
    assert held.due(136.0) == ([lease(1)], [])


def test_patience_doubles_to_its_limit() -> None:
    """30 s, 60 s, 120 s … 300 s, each ± 20 %."""
    held = some_reports(1)
    waits = []
    for _ in range(6):
        held.offer(lease(1), 0.0)
        assert held.deadline is not None
        waits.append(held.deadline)
    for wait, expected in zip(waits, (30, 60, 120, 240, 300, 300), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected


def test_unanswered_report_is_parked_after_three_offers() -> None:
    """The fourth time it is due it is parked, and then offered hourly."""
    held, now = some_reports(1), 0.0
    held.offer(lease(1), now)
    for _ in range(OFFERS_UNTIL_PARKED - 1):
        now += 1000
        assert held.due(now) == ([lease(1)], [])
        held.offer(lease(1), now)
    assert held.due(now + 1000) == ([], [])
    assert held.is_parked(lease(1))
    assert held.deadline is not None
    assert 0.8 * 3600 <= held.deadline - now - 1000 <= 1.2 * 3600


@pytest.mark.parametrize("is_grant", [True, False])
def test_answer_resets_the_count(is_grant: bool) -> None:
    """An answer, even a busy one, means that somebody is there."""
    held = some_reports(1)
    for _ in range(OFFERS_UNTIL_PARKED):
        held.offer(lease(1), 0.0)
    if is_grant:
        held.granted(lease(1), 0.0)
        held.drained(lease(1), 0.0)
    else:
        held.wait(lease(1), 0.0, RetryWindow(min=10, max=20))
    assert held.due(40.0) == ([lease(1)], [])
    assert not held.is_parked(lease(1))


def test_report_is_put_off_anew_only_after_another_answer() -> None:
    """The first `busy` of a pause is news, the others are not."""
    held = some_reports(1)
    assert [held.wait(lease(1), now, None) for now in (0.0, 10.0, 20.0)] == [True, False, False]
    held.granted(lease(1), 30.0)
    assert held.wait(lease(1), 40.0, None)


def test_granted_report_has_no_deadline() -> None:
    """No question is due while chunks are on their way."""
    held = some_reports(1)
    held.offer(lease(1), 0.0)
    held.granted(lease(1), 1.0)
    assert held.deadline is None


def test_other_run_is_parked_and_offered_when_served() -> None:
    """What is of the served run is offered when `fleet` names it, once."""
    held = some_reports(1, 2)
    assert held.serve("run-2") == []
    assert held.is_parked(lease(1))
    assert held.serve(RUN) == [lease(1), lease(2)]
    assert held.serve(RUN) == []


def test_finished_run_gives_up_unless_answered() -> None:
    """A minute after the end; an answer gives it another minute."""
    held = some_reports(1)
    assert held.finish("run-2", 0.0) == []
    assert held.finish(RUN, 0.0) == [lease(1)]
    held.wait(lease(1), 30.0, None)
    assert held.finish(RUN, 50.0) == [lease(1)]
    assert held.due(61.0)[1] == []
    assert held.due(90.0)[1] == [lease(1)]


def test_lost_link_stops_all_timers() -> None:
    """Without a link nothing is due: everything is offered on the next."""
    held = some_reports(1, 2)
    held.offer(lease(1), 0.0)
    held.finish(RUN, 0.0)
    held.connection_lost()
    assert held.deadline is None


def test_reports_of_the_served_run_come_first() -> None:
    """A check-in has room for sixteen."""
    held = HeldReports(TIMERS, Random(1), [a_held_report(1, run="run-0"), a_held_report(2)])
    held.serve(RUN)
    assert [report.lease for report in held.reports] == [lease(2), lease(1)]


def test_report_is_taken_once() -> None:
    """Two reports under one lease would be counted twice."""
    held = some_reports(1)
    with pytest.raises(InvalidState):
        held.add(a_held_report(1))
