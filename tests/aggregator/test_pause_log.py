"""What an operator reads of a pause: once that it stands still, once that it goes on."""

import structlog

from aggregator.pause_log import WAITS_FOR, PauseLog
from aggregator.phases import PauseCause, Phase

FULL = {PauseCause.DISK: "the disk is full"}


def test_pause_is_told_once_and_its_end_once() -> None:
    """With the cause, what it waits for, and how long it was."""
    pauses = PauseLog()
    with structlog.testing.capture_logs() as lines:
        pauses.look({}, Phase.REPORTING, 1.0)
        for second in (5.0, 6.0, 7.0):
            pauses.look(FULL, Phase.PAUSED, second)
        pauses.look({}, Phase.REPORTING, 65.5)
        pauses.look({}, Phase.REPORTING, 66.0)
    paused, goes_on = lines
    assert (paused["event"], paused["causes"]) == ("paused", {"disk": "the disk is full"})
    assert paused["waits_for"] == [WAITS_FOR[PauseCause.DISK]]
    assert (goes_on["event"], goes_on["phase"], goes_on["paused_s"]) == ("goes_on", "reporting", 60.5)


def test_second_cause_is_told_and_one_that_stays() -> None:
    """Whoever resumes by hand reads that the disk is still full; the pause is as long as both together."""
    pauses = PauseLog()
    by_hand = {PauseCause.OPERATOR: "by the operator"}
    with structlog.testing.capture_logs() as lines:
        pauses.look(by_hand, Phase.PAUSED, 0.0)
        pauses.look({**by_hand, **FULL}, Phase.PAUSED, 10.0)
        pauses.look(FULL, Phase.PAUSED, 20.0)
        pauses.look({}, Phase.WAITING, 30.0)
    assert [list(line["causes"]) for line in lines[:3]] == [["operator"], ["operator", "disk"], ["disk"]]
    assert lines[3]["paused_s"] == 30.0


def test_run_that_is_stopped_in_a_pause_does_not_go_on() -> None:
    """The end has its own line."""
    pauses = PauseLog()
    with structlog.testing.capture_logs() as lines:
        pauses.look(FULL, Phase.PAUSED, 0.0)
        pauses.look({}, Phase.FINISHED, 9.0)
    assert [line["event"] for line in lines] == ["paused"]


def test_every_cause_says_what_ends_it() -> None:
    """Also one that is added later."""
    assert WAITS_FOR.keys() == set(PauseCause)
