import pytest

from edge_client import events
from edge_client.events import Command, Event, Offer, SendCheckIn
from edge_client.final_leases import KEPT_FINALS
from edge_client.phases import Phase
from shared.errors import Reason
from shared.messages import Action, CheckIn, Outcome, RetryWindow, RoundState
from tests.edge_client.builders import (
    EPOCH,
    PHASES,
    Driven,
    a_control,
    a_fleet,
    a_held_report,
    a_machine,
    a_model,
    a_receipt,
    a_round,
    an_order,
    connected,
    fetching,
    lease,
    of_kind,
    reporting,
    settled,
    training,
)

RETRY = RetryWindow(min=100, max=200)
CANCEL = events.ControlArrived(a_control(Action.CANCEL, number=1, reason=Reason.COMMITTED))


def check_in_of(commands: list[Command]) -> CheckIn:
    """The one check-in among these commands."""
    (found,) = [command.message for command in commands if isinstance(command, SendCheckIn)]
    return found


# connecting


def test_connect_says_status_checks_in_and_offers_everything() -> None:
    """On every connect: status, manifests of all runs, a check-in that names what is held, one offer each."""
    driven = Driven(a_machine(a_held_report(1), a_held_report(2, run="run-0")))
    commands = driven(events.Connected(7))
    assert of_kind(commands) == ["FollowRun", "FollowRun", "SendCheckIn", "Offer", "Offer"]
    check_in = check_in_of(commands)
    assert (check_in.connection, check_in.boot, check_in.spec) == (7, "boot", "5" * 64)
    assert {holding.lease for holding in check_in.holds} == {lease(1), lease(2)}


def test_reconnect_resumes_the_fetch() -> None:
    """A model that was being fetched is asked for again on the next connection."""
    driven = fetching()
    driven(events.Disconnected())
    assert "FetchModel" in of_kind(driven(events.Connected(2)))


def test_work_without_a_link_is_kept_and_offered_later() -> None:
    """Training ends while there is no link: the report waits, and is offered at the next connect."""
    driven = training()
    driven(events.Disconnected())
    assert of_kind(driven(events.ReportStored(lease(1)))) == []
    assert driven.machine.deadline is None
    assert of_kind(driven(events.Connected(2)))[-1] == "Offer"


# checking in


def test_idle_device_checks_in_at_intervals() -> None:
    """Every check-in interval, ± 20 %."""
    driven = connected()
    for _ in range(20):
        deadline = driven.machine.deadline
        assert deadline is not None
        assert 0.8 * 30 <= deadline - driven.now <= 1.2 * 30
        assert of_kind(driven(events.DeadlinePassed(), after_s=deadline - driven.now)) == ["SendCheckIn"]


def test_busy_device_does_not_check_in_at_intervals() -> None:
    """While it works it says so in its status, nothing else."""
    driven = training()
    for _ in range(20):
        deadline = driven.machine.deadline
        assert deadline is not None
        assert deadline - driven.now == pytest.approx(10.0)  # the assignment's status interval
        assert of_kind(driven(events.DeadlinePassed(), after_s=deadline - driven.now)) == []


def test_come_back_moves_the_next_check_in() -> None:
    """Come back in 100 to 200 seconds means no check-in before then."""
    driven = connected()
    driven(events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.NOT_DRAWN, retry_s=RETRY)))
    deadline = driven.machine.deadline
    assert deadline is not None
    assert 100 <= deadline <= 200


def test_assignment_is_taken_before_coming_back() -> None:
    """Come-back only says when to check in: an assignment is taken at any time."""
    driven = connected()
    driven(events.ControlArrived(a_control(Action.COME_BACK, reason=Reason.SPEC, retry_s=RETRY)))
    driven(events.AssignmentArrived(an_order(1)))
    assert driven.phase is Phase.FETCHING


def test_higher_epoch_checks_in_within_the_window() -> None:
    """A restarted aggregator hears of every device, spread over the reconnect window."""
    instants = set()
    for seed in range(20):
        driven = Driven(a_machine(seed=seed))
        driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True))
        driven(events.FleetSeen(a_fleet(epoch=EPOCH + 1)))
        deadline = driven.machine.deadline
        assert deadline is not None
        assert 0 <= deadline <= 10
        assert of_kind(driven(events.DeadlinePassed(), after_s=deadline)) == ["SendCheckIn"]
        instants.add(round(deadline, 1))
    assert len(instants) > 10


def test_first_epoch_that_is_not_retained_checks_in_again() -> None:
    """An aggregator that starts after the device never heard its check-in."""
    driven = Driven(a_machine())
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=False))
    assert driven.machine.deadline is not None
    assert driven.machine.deadline <= 10


@pytest.mark.parametrize(
    "event",
    [
        events.FleetSeen(a_fleet(run="run-0", epoch=EPOCH - 1)),
        events.RoundSeen(a_round(RoundState.FINISHED, epoch=EPOCH - 1)),
        events.AssignmentArrived(an_order(2, version=5, epoch=EPOCH - 1)),
        events.ReceiptArrived(a_receipt(1, epoch=EPOCH - 1)),
        events.ControlArrived(a_control(Action.CANCEL, number=1, epoch=EPOCH - 1)),
    ],
)
@pytest.mark.parametrize("phase", Phase)
def test_lower_epoch_is_ignored(event: Event, phase: Phase) -> None:
    """What an aggregator of the past says has no effect in any phase."""
    driven = PHASES[phase]()
    assert driven(event) == []
    assert driven.phase is phase


# assignments


def test_assignment_of_a_final_lease_is_ignored() -> None:
    """A late copy of an assignment does not start the work again, not even after a reboot."""
    driven = Driven(a_machine(finals=(lease(9),)))
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True))
    assert driven(events.AssignmentArrived(an_order(9))) == []
    driven(CANCEL)
    assert driven(events.AssignmentArrived(an_order(1))) == []


def test_last_64_final_leases_are_remembered() -> None:
    """Older ones are forgotten."""
    driven = connected()
    for number in range(1, KEPT_FINALS + 2):
        driven(events.ReceiptArrived(a_receipt(number)))
    assert driven(events.AssignmentArrived(an_order(KEPT_FINALS + 1))) == []
    assert of_kind(driven(events.AssignmentArrived(an_order(1)))) == ["FetchModel"]


def test_missing_model_is_named_in_the_check_in() -> None:
    """The aggregator learns which digest does not come, and for which lease."""
    driven = fetching()
    check_in = check_in_of(driven(events.ModelMissing(lease(1), a_model().digest)))
    assert check_in.missing == a_model().digest
    assert [holding.lease for holding in check_in.holds] == [lease(1)]


def test_result_of_a_cancelled_training_is_thrown_away() -> None:
    """A report that became durable after its lease was cancelled is deleted, and never offered."""
    driven = training()
    driven(CANCEL)
    commands = driven(events.ReportStored(lease(1)))
    assert settled(commands) == [(lease(1), Outcome.CANCELLED)]
    assert driven.machine.held == ()


def test_superseded_report_is_parked_not_dropped() -> None:
    """Newer work goes first; the finished report stays in the outbox and is offered at the next connect."""
    driven = reporting()
    driven(events.AssignmentArrived(an_order(2, version=1)))
    assert [report.lease for report in driven.machine.held] == [lease(1)]
    driven(events.Disconnected())
    assert Offer(lease(1)) in driven(events.Connected(2))


# reporting


def test_unanswered_offer_is_repeated_then_parked() -> None:
    """Three offers with growing patience, then the device is idle, checks in, and offers hourly."""
    driven = reporting()
    offers, waits = 1, []
    while driven.phase is Phase.REPORTING:
        deadline = driven.machine.deadline
        assert deadline is not None
        commands = driven(events.DeadlinePassed(), after_s=deadline - driven.now)
        offers += of_kind(commands).count("Offer")
        if "Offer" in of_kind(commands):
            waits.append(driven.now)
    assert offers == 3
    assert 24 <= waits[0] <= 36
    assert 48 <= waits[1] - waits[0] <= 72
    assert of_kind(commands) == ["StopUpload", "SendCheckIn"]
    assert driven.machine.held[0].lease == lease(1)
    while "Offer" not in of_kind(commands):
        deadline = driven.machine.deadline
        assert deadline is not None
        commands = driven(events.DeadlinePassed(), after_s=deadline - driven.now)
    assert 0.8 * 3600 <= driven.now - waits[1] - 120 <= 1.3 * 3600


def test_parked_report_that_is_answered_is_taken_up_again() -> None:
    """A grant for a report of an earlier life makes the device report again."""
    driven = Driven(a_machine(a_held_report(1)))
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True))
    assert driven.phase is Phase.IDLE
    commands = driven(events.ReceiptArrived(a_receipt(1, Outcome.NEED, need=((0, 3),))))
    assert of_kind(commands) == ["GrantChunks"]
    assert (driven.phase, driven.machine.lease) == (Phase.REPORTING, lease(1))


def test_busy_report_waits_as_told() -> None:
    """A paused aggregator says when to ask again, and that does not count as unanswered; the operator is told once."""
    driven = reporting()
    for i in range(10):
        told = driven(events.ReceiptArrived(a_receipt(1, Outcome.BUSY, retry_s=RetryWindow(min=50, max=60))))
        assert of_kind(told) == (["PutOff"] if i == 0 else [])
        asked_at = driven.now
        commands: list[Command] = []
        while "Offer" not in of_kind(commands):
            deadline = driven.machine.deadline
            assert deadline is not None
            commands = driven(events.DeadlinePassed(), after_s=deadline - driven.now)
        assert 50 <= driven.now - asked_at <= 60
    assert driven.phase is Phase.REPORTING


def test_no_question_while_chunks_are_under_way() -> None:
    """The receipt timer runs from the last PUBACK of what was granted."""
    driven = reporting()
    driven(events.ReceiptArrived(a_receipt(1, Outcome.NEED, need=((0, 3),))))
    for _ in range(100):
        assert "Offer" not in of_kind(driven(events.DeadlinePassed(), after_s=10))
    driven(events.UploadDrained(lease(1)))
    assert "Offer" in of_kind(driven(events.DeadlinePassed(), after_s=36))


def test_final_outcome_is_applied_once() -> None:
    """A repeated receipt changes nothing."""
    driven = reporting()
    assert settled(driven(events.ReceiptArrived(a_receipt(1)))) == [(lease(1), Outcome.ACCEPTED)]
    assert driven(events.ReceiptArrived(a_receipt(1, Outcome.REJECTED))) == []


def test_report_of_another_run_is_parked_and_offered_when_its_run_is_served() -> None:
    """Another run's aggregator does not answer; its own does, when it is back."""
    driven = reporting()
    driven(events.FleetSeen(a_fleet(run="run-2", epoch=EPOCH + 1)))
    assert driven.phase is Phase.IDLE
    commands = driven(events.FleetSeen(a_fleet(epoch=EPOCH + 2)))
    assert Offer(lease(1)) in commands


def test_parked_report_is_offered_when_the_aggregator_is_back() -> None:
    """It publishes `fleet` at each of its connections: nobody waits for an hour because its link was away."""
    driven = reporting()
    driven(events.FleetSeen(a_fleet(), retained=True))
    while driven.phase is Phase.REPORTING:
        deadline = driven.machine.deadline
        assert deadline is not None
        driven(events.DeadlinePassed(), after_s=deadline - driven.now)
    assert "Offer" not in of_kind(driven(events.FleetSeen(a_fleet())))
    back_at = driven.now
    commands: list[Command] = []
    while "Offer" not in of_kind(commands):
        deadline = driven.machine.deadline
        assert deadline is not None
        commands = driven(events.DeadlinePassed(), after_s=deadline - driven.now)
    assert driven.now - back_at <= a_fleet().reconnect_window_s


# the end of a run


def test_finished_run_is_asked_once_more_then_given_up() -> None:
    """After a minute without an answer the device takes `discarded: run_finished` itself."""
    driven = reporting()
    assert of_kind(driven(events.RoundSeen(a_round(RoundState.FINISHED)))) == ["Offer"]
    commands: list[Command] = []
    while driven.phase is Phase.REPORTING:
        deadline = driven.machine.deadline
        assert deadline is not None
        commands = driven(events.DeadlinePassed(), after_s=deadline - driven.now)
    assert driven.now == pytest.approx(60)
    assert settled(commands) == [(lease(1), Outcome.DISCARDED)]
    assert of_kind(commands)[-1] == "RunFinished"


def test_finished_run_answers_and_is_over() -> None:
    """The answer to the last offer ends the run for this device at once."""
    driven = reporting()
    driven(events.RoundSeen(a_round(RoundState.FINISHED)))
    assert of_kind(driven(events.ReceiptArrived(a_receipt(1, Outcome.DISCARDED))))[-1] == "RunFinished"


def test_retained_finished_manifest_is_believed_after_a_while() -> None:
    """A device that starts beside the next aggregator is not sent home by the last one's word."""
    driven = Driven(a_machine())
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True))
    assert of_kind(driven(events.RoundSeen(a_round(RoundState.FINISHED), retained=True))) == []
    assert "RunFinished" in of_kind(driven(events.DeadlinePassed(), after_s=30))


def test_retained_finished_manifest_of_the_run_before_is_forgotten() -> None:
    """The next aggregator serves another run in time: nothing is over."""
    driven = Driven(a_machine())
    driven(events.Connected(1), events.FleetSeen(a_fleet(), retained=True))
    driven(events.RoundSeen(a_round(RoundState.FINISHED), retained=True))
    driven(events.FleetSeen(a_fleet(run="run-2", epoch=EPOCH + 1)), after_s=5)
    assert "RunFinished" not in of_kind(driven(events.DeadlinePassed(), after_s=60))
