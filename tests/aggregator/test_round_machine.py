"""The engine by hand: goal 4, quorum 3, six invited, a window of 100 s that may grow twice."""

import math
from typing import Any

import pytest

from aggregator import events as ev
from aggregator import records as rec
from aggregator.leases import LeaseState
from aggregator.phases import Phase
from shared.errors import InvalidState, Reason
from shared.messages import Kind, Outcome, RoundOutcome
from tests.aggregator.builders import (
    DIGEST,
    WINDOW_S,
    Engine,
    a_verdict,
    commands_in,
    some_settings,
)

SIX = [f"d{i}" for i in range(6)]


def reporting(**tables: Any) -> Engine:
    """A round that six devices have been asked for."""
    engine = Engine(some_settings(**tables))
    engine.check_in(*SIX)
    assert engine.is_in(Phase.REPORTING)
    assert engine.leased() == SIX
    return engine


def receipts(commands: list[ev.Command]) -> list[tuple[str, Outcome, Reason | None, bool]]:
    """Return what devices were told about leases."""
    return [(each.device, each.outcome, each.reason, each.repeat) for each in commands_in(commands, ev.SendReceipt)]


def rows(commands: list[ev.Command]) -> list[rec.Record]:
    """Return what was journalled."""
    return [each.record for each in commands_in(commands, ev.Journal)]


# a round begins


def test_round_waits_for_a_quorum_of_devices() -> None:
    """Two of the three that a quorum needs are there: nobody is asked, and both are told to come back."""
    engine = Engine()
    commands = engine.check_in("d0", "d1")
    assert engine.is_in(Phase.WAITING)
    assert engine.machine.n_at_hand(engine.now) == 2
    assert [(each.device, each.reason) for each in commands_in(commands, ev.ComeBack)] == [
        ("d0", Reason.NOT_DRAWN),
        ("d1", Reason.NOT_DRAWN),
    ]
    assert engine.machine.deadline is None


def test_round_begins_with_the_quorum_and_asks_whoever_comes_later() -> None:
    """The third device starts the round; four, five and six are asked as they come, the seventh is not."""
    engine = Engine()
    commands = engine.check_in("d0", "d1", "d2")
    assert rows(commands)[0] == rec.RoundRecord(round_id=1, into=1)
    assert engine.leased() == ["d0", "d1", "d2"]
    engine.check_in("d3", "d4", "d5")
    assert engine.leased() == SIX
    late = engine.check_in("d6")
    assert [each.reason for each in commands_in(late, ev.ComeBack)] == [Reason.NOT_DRAWN]
    assert engine.leased() == SIX


def test_lease_is_durable_before_its_assignment() -> None:
    """An Assignment is only published behind the row of its lease."""
    engine = Engine()
    commands = engine.machine.handle(ev.CheckedIn(device="d0"), 0.0)
    commands += engine.machine.handle(ev.CheckedIn(device="d1"), 0.0)
    commands += engine.machine.handle(ev.CheckedIn(device="d2"), 0.0)
    assert not commands_in(commands, ev.Assign)
    leases = [each for each in commands_in(commands, ev.Journal) if isinstance(each.record, rec.LeaseRecord)]
    for journal in leases:
        assert isinstance(journal.record, rec.LeaseRecord)
        (assign,) = journal.then
        assert assign == ev.Assign(lease=journal.record.lease, device=journal.record.device, seconds_left=WINDOW_S)
    assert len(leases) == 3


def test_device_that_arrives_in_mid_round_is_asked() -> None:
    """A round that began with four devices has two places left: the device from the second terminal gets one."""
    engine = Engine()
    engine.check_in(*SIX[:4])
    engine.report("d0")
    commands = engine.check_in("late")
    assert [each.device for each in commands_in(commands, ev.Assign)] == ["late"]
    assert not commands_in(commands, ev.ComeBack)


# a round ends


def test_goal_closes_the_round() -> None:
    """The fourth report closes: CLOSE names the last that counts, and Aggregate waits behind it."""
    engine = reporting()
    engine.report(*SIX[:3])
    assert engine.is_in(Phase.REPORTING)
    commands = engine.report("d3")
    assert engine.is_in(Phase.AGGREGATING)
    assert rows(commands)[-1] == rec.CloseRecord(into=1, last_seq=4)
    assert commands[-1] == ev.Aggregate(into=1, round_id=1)


def test_commit_cancels_what_is_still_out_and_ends_the_round() -> None:
    """The version is journalled, then published; then devices five and six are told to stop, and the round is over."""
    engine = reporting()
    engine.report(*SIX[:4])
    written = engine(ev.VersionWritten(version=1, digest=DIGEST, metrics=(("accuracy", 0.5),)))
    assert rows(written) == [
        rec.CommitRecord(version=1, round_id=1, digest=DIGEST, metrics=(("accuracy", 0.5),)),
    ]
    assert written[-1] == ev.PublishModel(version=1)
    published = engine(ev.Published(version=1))
    assert [(each.device, each.reason) for each in commands_in(published, ev.Cancel)] == [
        ("d4", Reason.COMMITTED),
        ("d5", Reason.COMMITTED),
    ]
    (ended,) = commands_in(published, ev.RoundEnded)
    assert (ended.round_id, ended.version, ended.outcome) == (1, 1, RoundOutcome.COMMITTED)
    assert (ended.counts["accepted"], ended.counts["cancelled"], ended.metrics) == (4, 2, {"accuracy": 0.5})
    assert engine.is_in(Phase.WAITING)
    assert engine.machine.n_at_hand(engine.now) == 0


def test_nobody_is_asked_before_the_version_is_published() -> None:
    """Between the row of the version and its publication, a device that checks in is told to come back."""
    engine = reporting()
    engine.report(*SIX[:4])
    assert not commands_in(engine.check_in("d0", "d1", "d2"), ev.Assign)
    engine(ev.VersionWritten(version=1, digest=DIGEST))
    assert not commands_in(engine.check_in("d6"), ev.Assign)
    commands = engine(ev.Published(version=1))
    assert [each.device for each in commands_in(commands, ev.Assign)] != []
    assert all(engine.machine.leases[each.lease].record.base_version == 1 for each in commands_in(commands, ev.Assign))


def test_deadline_with_a_quorum_closes() -> None:
    """Three of four reports are there after 100 s: enough."""
    engine = reporting()
    engine.report(*SIX[:3])
    commands = engine.pass_s(WINDOW_S)
    assert engine.is_in(Phase.AGGREGATING)
    assert rows(commands)[-1] == rec.CloseRecord(into=1, last_seq=3)


def test_quorum_with_nothing_out_and_nobody_left_closes_at_once() -> None:
    """Three reports and three failures, nobody else there: waiting for the deadline would bring nothing."""
    engine = reporting()
    engine.report(*SIX[:3])
    engine.fail("d3")
    engine.fail("d4")
    assert engine.is_in(Phase.REPORTING)
    engine.fail("d5")
    assert engine.is_in(Phase.AGGREGATING)
    assert engine.now == 0.0


def test_deadline_without_quorum_extends_twice_then_abandons_and_backs_off() -> None:
    """100 s, 50 s, 50 s, then the round is abandoned; the next begins 10 s later, after one more abandoned 20 s."""
    engine = reporting(round={"lease_s": 1000})
    engine.report("d0")
    engine.pass_s(199.0)
    assert engine.is_in(Phase.REPORTING)
    assert engine.machine.timer.n_extensions == 2
    commands = engine.pass_s(1.0)
    assert rec.AbandonRecord(round_id=1) in rows(commands)
    (ended,) = commands_in(commands, ev.RoundEnded)
    assert (ended.outcome, ended.seconds) == (RoundOutcome.ABANDONED, 200.0)
    assert engine.is_in(Phase.WAITING)
    engine.pass_s(9.0)
    assert engine.is_in(Phase.WAITING)
    begun = engine.pass_s(1.0)
    assert rec.RoundRecord(round_id=2, into=1) in rows(begun)
    assert engine.machine.n_at_hand(engine.now) == 6  # one accepted, five still out
    engine.pass_s(20.0)  # the one report took no time: the window is the shortest, and grows by 5 s twice
    assert engine.is_in(Phase.WAITING)
    assert engine.machine.timer.begins_at == engine.now + 20.0


def test_abandoned_round_hands_accepted_updates_on() -> None:
    """Two updates of the abandoned round count for the next, whose quorum then needs only one more."""
    engine = reporting()
    engine.report("d0", "d1")
    engine.pass_s(200.0)
    assert engine.machine.tally.n_accepted == 2
    engine.pass_s(10.0)
    assert engine.is_in(Phase.WAITING)  # the others' leases have expired: 2 < 3
    engine.check_in("d2")
    assert engine.is_in(Phase.REPORTING)
    commands = engine.report("d2")
    assert engine.is_in(Phase.AGGREGATING)  # quorum, nothing outstanding, nobody left
    assert rows(commands)[-1] == rec.CloseRecord(into=1, last_seq=3)
    assert {record.round_id for record in engine.machine.tally.accepted()} == {1, 2}


def test_goal_reached_between_rounds_goes_straight_to_aggregating() -> None:
    """An abandoned round's leases are good: their reports reach the goal in the back-off, no round begins."""
    engine = reporting(round={"lease_s": 1000, "quorum": 1.0})
    engine.report(*SIX[:3])
    engine.pass_s(200.0)
    assert engine.is_in(Phase.WAITING)
    commands = engine.report("d3")
    assert engine.is_in(Phase.AGGREGATING)
    assert [type(row) for row in rows(commands)] == [rec.AcceptRecord, rec.CloseRecord]
    engine.write()
    assert engine.machine.timer.begins_at == -math.inf  # a version was made: nothing to back off from


def test_devices_that_failed_may_try_the_next_round() -> None:
    """A round abandoned because everybody failed is not the end: the next begins with the same devices."""
    engine = Engine()
    engine.check_in("d0", "d1", "d2")
    for device in ("d0", "d1", "d2"):
        engine.fail(device)
    engine.check_in("d0", "d1", "d2")
    assert engine.leased() == []  # not again in this round
    engine.pass_s(200.0)
    assert engine.is_in(Phase.WAITING)
    engine.pass_s(10.0)
    assert engine.is_in(Phase.REPORTING)
    assert engine.leased() == ["d0", "d1", "d2"]


# leases


def test_expired_lease_is_refilled_and_its_report_still_counts() -> None:
    """Half of the window without a word: two devices that wait take the places; the late report is accepted."""
    engine = reporting(round={"lease_s": 50})
    engine.report(*SIX[:2])
    engine.check_in("d6", "d7")
    assert "d6" not in engine.leased()
    engine(ev.Progressed(device="d2", lease=engine.lease_of("d2")), after_s=40.0)
    late = engine.lease_of("d3")
    engine.pass_s(10.0)
    assert engine.leased() == ["d2", "d6", "d7"]
    assert engine.machine.leases[late].state is LeaseState.EXPIRED
    commands = engine(a_verdict(late))
    assert receipts(commands) == [("d3", Outcome.ACCEPTED, None, False)]
    assert engine.machine.tally.n_accepted == 3


def test_progress_of_another_device_renews_nothing() -> None:
    """A lease is renewed by its own device alone."""
    engine = reporting(round={"lease_s": 50})
    lease = engine.lease_of("d0")
    engine(ev.Progressed(device="d1", lease=lease), ev.Progressed(device="d0", lease="0" * 32), after_s=40.0)
    engine.pass_s(10.0)
    assert engine.machine.leases[lease].state is LeaseState.EXPIRED


@pytest.mark.parametrize("is_failure", [True, False])
def test_failure_and_rejection_refill_and_bar_the_device_for_the_round(is_failure: bool) -> None:
    """The place goes to a device that waits; whoever failed is asked again in the next round, not in this one."""
    engine = reporting()
    engine.check_in("d6")
    lease = engine.lease_of("d0")
    event: ev.Event = (
        ev.Failed(device="d0", lease=lease, reason=Reason.TRAINING, detail="ZeroDivisionError")
        if is_failure
        else ev.Refused(lease=lease, reason=Reason.NOT_FINITE)
    )
    commands = engine(event)
    outcome, reason = (Outcome.FAILED, Reason.TRAINING) if is_failure else (Outcome.REJECTED, Reason.NOT_FINITE)
    assert receipts(commands) == [("d0", outcome, reason, False)]
    assert ev.DropUpload(lease=lease) in commands
    assert engine.leased() == [*SIX[1:], "d6"]
    engine.fail("d1")
    assert not commands_in(engine.check_in("d0"), ev.Assign)
    assert "d0" not in engine.leased()
    engine.report(
        *SIX[2:],
    )
    engine.write()
    assert "d0" in engine.leased() or engine.is_in(Phase.WAITING)
    engine.check_in(*SIX)
    assert "d0" in engine.leased()


def test_repeated_offer_gets_the_same_outcome_again() -> None:
    """Whatever became of a lease, asking again changes nothing and is answered with `repeat`."""
    engine = reporting()
    accepted, failed = engine.lease_of("d0"), engine.lease_of("d1")
    engine.report("d0")
    engine.fail("d1")
    n_rows = len(engine.records)
    for _ in range(2):
        assert receipts(engine(ev.Offered(device="d0", lease=accepted))) == [("d0", Outcome.ACCEPTED, None, True)]
        assert receipts(engine(ev.Offered(device="d1", lease=failed))) == [
            ("d1", Outcome.FAILED, Reason.TRAINING, True)
        ]
        assert receipts(engine(a_verdict(accepted))) == [("d0", Outcome.ACCEPTED, None, True)]
    assert len(engine.records) == n_rows


def test_offer_under_a_good_lease_is_taken_up() -> None:
    """What may count is uploaded, what may not is answered at once."""
    engine = reporting()
    lease = engine.lease_of("d0")
    assert engine(ev.Offered(device="d0", lease=lease)) == [ev.TakeUpload(lease=lease)]


def test_device_with_an_accepted_update_is_not_asked_again_for_the_version() -> None:
    """It checks in at once and waits: another report from the same base version would count twice."""
    engine = reporting()
    engine.report("d0")
    engine.fail("d1")
    commands = engine.check_in("d0")
    assert [each.reason for each in commands_in(commands, ev.ComeBack)] == [Reason.NOT_DRAWN]
    assert "d0" not in engine.leased()
    engine.report(*SIX[2:5])
    engine.write()
    engine.check_in(*SIX)
    assert "d0" in engine.leased()


def test_late_report_while_aggregating_is_discarded_goal_met() -> None:
    """Good work that came after the close is not uploaded, and not counted: sync rounds take none that is late."""
    engine = reporting()
    engine.report(*SIX[:4])
    late, later = engine.lease_of("d4"), engine.lease_of("d5")
    assert receipts(engine(ev.Offered(device="d4", lease=late))) == [("d4", Outcome.DISCARDED, Reason.GOAL_MET, False)]
    assert receipts(engine(a_verdict(later))) == [("d5", Outcome.DISCARDED, Reason.GOAL_MET, False)]
    engine.write()
    assert engine.machine.tally.n_folded == 4


def test_device_without_its_expired_lease_gives_it_up() -> None:
    """It checks in and does not name the lease that expired: it lost it, so that lease ends and another may come."""
    engine = reporting(round={"lease_s": 50})
    lost = engine.lease_of("d0")
    engine.pass_s(50.0)
    commands = engine.check_in("d0")
    assert [(each.device, each.lease, each.reason) for each in commands_in(commands, ev.Cancel)] == [
        ("d0", lost, Reason.SUPERSEDED)
    ]
    assert engine.lease_of("d0") != lost


# weights


@pytest.mark.parametrize(
    ("tables", "weight"),
    [
        ({}, 700.0),
        ({"round": {"max_examples": 500}}, 500.0),
        ({"round": {"max_examples": 900}}, 700.0),
        ({"server": {"weighting": "uniform"}}, 1.0),
    ],
)
def test_weight_is_by_examples_capped_or_uniform(tables: dict[str, dict[str, Any]], weight: float) -> None:
    """A device that claims 700 examples weighs 700, the cap, or one."""
    engine = reporting(**tables)
    engine.report("d0", num_examples=700)
    (record,) = engine.machine.tally.accepted()
    assert (record.weight, record.num_examples) == (weight, 700)


# pausing


def test_pause_moves_deadlines_answers_busy_and_holds_verdicts_back() -> None:
    """An hour's pause costs nobody a second: 30 s were left and are left; a verdict of meanwhile counts afterwards."""
    engine = reporting()
    engine.now = 70.0
    engine(ev.PauseAsked())
    assert engine.machine.deadline is None
    assert engine.machine.seconds_left(engine.now + 50.0) == 30.0
    offered = engine(ev.Offered(device="d0", lease=engine.lease_of("d0")), after_s=1800.0)
    assert receipts(offered) == [("d0", Outcome.BUSY, Reason.PAUSED, False)]
    assert engine.report("d0") == []
    checked_in = engine.check_in("d6")
    assert [each.reason for each in commands_in(checked_in, ev.ComeBack)] == [Reason.PAUSED]
    assert not commands_in(checked_in, ev.Assign)
    commands = engine(ev.ResumeAsked(), after_s=1800.0)
    assert receipts(commands) == [("d0", Outcome.ACCEPTED, None, False)]
    assert engine.is_in(Phase.REPORTING)
    assert engine.machine.seconds_left(engine.now) == 30.0
    assert engine.machine.leases[engine.lease_of("d1")].expires_at == engine.now + 30.0


def test_progress_in_a_pause_renews_a_lease_no_longer_than_in_a_round() -> None:
    """A device that trains on through a pause of an hour has one lease's life afterwards, not an hour more."""
    engine = reporting(round={"lease_s": 50})
    lease = engine.lease_of("d0")
    engine(ev.PauseAsked())
    engine(ev.Progressed(device="d0", lease=lease), after_s=1800.0)
    engine(ev.ResumeAsked(), after_s=1800.0)
    assert engine.machine.leases[lease].expires_at == engine.now + 50.0


def test_broker_gone_for_a_minute_pauses_and_its_return_resumes() -> None:
    """59 s are nothing; after 60 s the round stands still, until the broker is back."""
    engine = reporting()
    engine(ev.BrokerLost(), ev.BrokerLost())
    engine.pass_s(59.0)
    assert engine.is_in(Phase.REPORTING)
    engine.pass_s(1.0)
    assert engine.is_in(Phase.PAUSED)
    assert list(engine.machine.pausing.causes) == ["broker"]
    engine.pass_s(1000.0)
    engine(ev.BrokerFound())
    assert engine.is_in(Phase.REPORTING)
    assert engine.machine.seconds_left(engine.now) == 40.0


def test_broker_back_within_the_minute_is_no_cause() -> None:
    """A link that flaps does not add up to a minute."""
    engine = reporting()
    for _ in range(5):
        engine(ev.BrokerLost())
        engine(ev.BrokerFound(), after_s=19.0)
    assert engine.is_in(Phase.REPORTING)


def test_disk_clears_itself_and_is_not_resumed_by_hand() -> None:
    """A full disk pauses until there is room; an operator's resume does not make room."""
    engine = reporting()
    engine(ev.DiskLow())
    engine(ev.ResumeAsked())
    assert engine.is_in(Phase.PAUSED)
    assert engine(ev.DiskLow()) == []  # said again every few seconds
    engine(ev.DiskFree())
    assert engine.is_in(Phase.REPORTING)


def test_two_causes_must_both_be_gone() -> None:
    """Paused by hand and for the disk: each ends its own."""
    engine = reporting()
    engine(ev.PauseAsked(), ev.DiskLow())
    engine(ev.DiskFree())
    assert engine.is_in(Phase.PAUSED)
    engine(ev.ResumeAsked())
    assert engine.is_in(Phase.REPORTING)


def test_failed_aggregation_pauses_and_resume_tries_again() -> None:
    """Not finite: the run stands still, saying so; resume makes the same version from the same updates."""
    engine = reporting()
    engine.report(*SIX[:4])
    engine(ev.AggregationFailed(detail="the next model is not finite"))
    assert engine.is_in(Phase.PAUSED)
    assert engine.machine.pausing.causes == {"error": "the next model is not finite"}
    commands = engine(ev.ResumeAsked())
    assert engine.is_in(Phase.AGGREGATING)
    assert commands_in(commands, ev.Aggregate) == [ev.Aggregate(into=1, round_id=1)]
    engine.write()
    assert engine.machine.version == 1


def test_resume_void_throws_the_updates_away_and_abandons_the_round() -> None:
    """After an error: VOID is journalled, files and sum go, the round is abandoned, its devices may report anew."""
    engine = reporting()
    voided = [engine.lease_of(device) for device in SIX[:4]]
    engine.report(*SIX[:4])
    engine(ev.AggregationFailed(detail="not finite"), after_s=5.0)
    commands = engine(ev.ResumeAsked(void=True), after_s=100.0)
    assert rows(commands)[:2] == [rec.VoidRecord(into=1), rec.AbandonRecord(round_id=1)]
    assert ev.Forget(into=1) in commands
    assert [each.lease for each in commands_in(commands, ev.DropUpload)] == voided
    (ended,) = commands_in(commands, ev.RoundEnded)
    assert (ended.outcome, ended.seconds) == (RoundOutcome.ABANDONED, 5.0)
    assert engine.machine.tally.n_voided == 4
    assert engine.is_in(Phase.WAITING)
    engine.check_in(*SIX[:4])
    engine.pass_s(10.0)  # the back-off of an abandoned round
    assert engine.is_in(Phase.REPORTING)
    assert "d0" in engine.leased()
    engine.report(*SIX[:4])
    engine.write()
    assert (engine.machine.version, engine.machine.tally.n_folded) == (1, 4)


def test_resume_void_in_mid_round_abandons_it() -> None:
    """Paused by hand while reports come in: what came is thrown away, what is out stays good."""
    engine = reporting()
    engine.report("d0", "d1")
    engine(ev.PauseAsked())
    engine(ev.ResumeAsked(void=True))
    assert engine.machine.tally.n_accepted == 0
    assert engine.machine.last_outcome is RoundOutcome.ABANDONED
    assert engine.leased() == SIX[2:]


def test_void_without_a_pause_or_while_a_version_is_made_voids_nothing() -> None:
    """What is being counted right now cannot be taken out of the sum: the version comes."""
    engine = reporting()
    engine.report(*SIX[:3])
    engine(ev.ResumeAsked(void=True))
    assert engine.machine.tally.n_accepted == 3
    engine.report("d3")
    engine(ev.PauseAsked(), ev.ResumeAsked(void=True))
    engine.write()
    assert (engine.machine.version, engine.machine.tally.n_voided) == (1, 0)


def test_version_that_comes_while_paused_counts_and_nothing_is_given_out() -> None:
    """The version is committed and the round ends; the next begins, and devices are asked, only after the pause."""
    engine = reporting(evaluation={"federated_every": 1})
    engine.report(*SIX[:4])
    engine.check_in("d0", "d1", "d2")
    engine(ev.PauseAsked())
    commands = engine.write()
    assert engine.machine.version == 1
    assert commands_in(commands, ev.RoundEnded)
    assert not commands_in(commands, ev.Assign)
    resumed = engine(ev.ResumeAsked())
    assert engine.is_in(Phase.REPORTING)
    assert len(commands_in(resumed, ev.Assign)) == 3


# the end


def test_stop_finishes_with_the_last_version() -> None:
    """By the operator: what is out becomes `discarded: run_finished`, and only when that is durable the end is told."""
    engine = reporting()
    engine.report("d0")
    commands = engine(ev.StopAsked())
    assert engine.is_in(Phase.FINISHED)
    assert [each[1:3] for each in receipts(commands)] == [(Outcome.DISCARDED, Reason.RUN_FINISHED)] * 5
    assert rows(commands)[-1] == rec.FinishRecord(cause="operator")
    assert commands[-2:] == [ev.PublishRound(), ev.Finish(cause="operator")]
    assert engine.machine.deadline is None


@pytest.mark.parametrize("event", [ev.BrokerLost(), ev.PauseAsked(), ev.DiskLow()])
def test_stop_ends_a_run_that_stands_still(event: ev.Event) -> None:
    """Paused or without a broker, a run can be stopped, and no timer is left behind."""
    engine = reporting()
    engine(event)
    engine(ev.StopAsked())
    assert engine.is_in(Phase.FINISHED)
    assert engine.machine.deadline is None
    assert engine.machine.seconds_left(engine.now) is None


def test_stop_while_a_version_is_made_leaves_it_out() -> None:
    """The version that was under way is not committed; its arrival changes nothing."""
    engine = reporting()
    engine.report(*SIX[:4])
    engine(ev.StopAsked())
    assert engine.write() == []
    assert engine.machine.version == 0


def test_run_finishes_by_rounds() -> None:
    """Two versions were asked for: the second, once published, is the end."""
    engine = Engine(some_settings(stop={"rounds": 2}))
    engine.round(*SIX)
    assert engine.is_in(Phase.WAITING)
    commands = engine.round(*SIX)
    assert commands_in(commands, ev.Finish) == [ev.Finish(cause="rounds")]
    assert len(commands_in(commands, ev.RoundEnded)) == 1
    assert not commands_in(commands, ev.Cancel)  # their leases end as discarded: run_finished


@pytest.mark.parametrize(
    ("stop", "values", "cause"),
    [
        ({"rounds": None, "at_least": 0.9}, [0.5, 0.8, 0.95], "metric"),
        ({"rounds": None, "at_most": 0.1, "metric": "loss"}, [1.0, 0.5, 0.1], "metric"),
        ({"rounds": None, "patience": 2}, [0.5, 0.4, 0.5], "patience"),
        ({"rounds": None, "patience": 2, "metric": "loss"}, [0.5, 0.6, 0.5], "patience"),
    ],
)
def test_run_finishes_by_metric_or_patience(stop: dict[str, Any], values: list[float], cause: str) -> None:
    """The third version is the last: its metric is good enough, or the second in a row that is not better."""
    engine = Engine(some_settings(stop=stop))
    name = str(stop.get("metric", "accuracy"))
    for value in values[:2]:
        engine.round(*SIX, **{name: value})
        assert not engine.is_in(Phase.FINISHED)
    commands = engine.round(*SIX, **{name: values[2]})
    assert commands_in(commands, ev.Finish) == [ev.Finish(cause=cause)]
    assert engine.machine.version == 3


def test_finished_run_answers_whoever_asks() -> None:
    """A check-in is told to come back, a held lease and an offer get their final receipt again."""
    engine = reporting()
    lease = engine.lease_of("d0")
    engine(ev.StopAsked())
    final = ("d0", Outcome.DISCARDED, Reason.RUN_FINISHED, True)
    assert receipts(engine(ev.CheckedIn(device="d0", holds=frozenset({lease})))) == [final]
    assert receipts(engine(ev.Offered(device="d0", lease=lease))) == [final]
    (come_back,) = commands_in(engine.check_in("new"), ev.ComeBack)
    assert come_back.reason is Reason.RUN_FINISHED
    assert engine(ev.BrokerFound()) == [ev.PublishRound()]


def test_finished_run_knows_when_everybody_has_heard() -> None:
    """Once every device of the last round has checked in without its lease, or left without it, nobody is missing."""
    engine = Engine(some_settings(stop={"rounds": 1}))
    engine.check_in("d0", "d1", "d2")
    engine.report("d0", "d1", "d2")
    engine.write()
    assert engine.is_in(Phase.FINISHED)
    assert set(engine.machine.invitations.recent) == {"d0", "d1", "d2"}
    engine.check_in("d0")
    engine(ev.DeviceOffline(device="d1"))
    engine(ev.DeviceOffline(device="d2", is_settled=True))
    assert set(engine.machine.invitations.recent) == {"d1"}
    engine.check_in("d1")
    assert not engine.machine.invitations.recent


# federated evaluation


def evaluating() -> Engine:
    """Version 1 is committed; two of five devices that wait are asked to evaluate it, the others train on."""
    engine = Engine(some_settings(evaluation={"federated_every": 1, "devices": 2, "window_s": 30}))
    engine.check_in(*SIX)
    engine.report(*SIX[:4])
    engine.check_in(*SIX[:4])
    engine.write()
    return engine


def evaluators(engine: Engine) -> list[str]:
    """Return the devices with a lease to evaluate."""
    return sorted(lease.record.device for lease in engine.machine.leases.open(Kind.EVALUATE))


def test_devices_evaluate_outside_of_goal_and_phases() -> None:
    """Two devices evaluate while others train; when both have reported, their metrics are handed over at once."""
    engine = evaluating()
    first, second = evaluators(engine)
    assert not engine.machine.leases.n_outstanding(Kind.TRAIN)  # two are left: no quorum for a round
    assert engine.machine.tally.n_accepted == 0
    commands: list[ev.Command] = []
    for device in (first, second):
        metrics = (("accuracy", (8.0, 10.0)),)
        lease = engine.lease_of(device)
        commands += engine(ev.Evaluated(device=device, lease=lease, num_examples=10, metrics=metrics))
    (done,) = commands_in(commands, ev.EvaluationDone)
    assert (done.version, done.n_asked, [each[0] for each in done.reports]) == (1, 2, [first, second])


def test_evaluation_window_ends_with_who_reported_and_cancels_the_rest() -> None:
    """After 30 s the one report that came is handed over; the other device is told to stop, and is free again."""
    engine = evaluating()
    first, second = evaluators(engine)
    engine(ev.Evaluated(device=first, lease=engine.lease_of(first), num_examples=10, metrics=(("loss", 1.0),)))
    commands = engine.pass_s(30.0)
    (done,) = commands_in(commands, ev.EvaluationDone)
    assert [each[0] for each in done.reports] == [first]
    assert [each.device for each in commands_in(commands, ev.Cancel)] == [second]
    assert not list(engine.machine.leases.open(Kind.EVALUATE))


def test_evaluation_ends_early_when_nobody_will_report_any_more() -> None:
    """Both devices failed at it: the books are closed with no report."""
    engine = evaluating()
    commands = [each for device in evaluators(engine) for each in engine.fail(device)]
    (done,) = commands_in(commands, ev.EvaluationDone)
    assert done.reports == ()


def test_metrics_of_devices_stop_a_run_without_central_evaluation() -> None:
    """With no data on the server the devices' own accuracy decides, at the next event."""
    stop = {"rounds": None, "at_least": 0.9}
    engine = Engine(some_settings(stop=stop, evaluation={"federated_every": 1, "central_every": 0}))
    engine.round(*SIX)
    engine.machine.federated_metrics(1, {"accuracy": 0.95})
    assert commands_in(engine(ev.DeadlinePassed()), ev.Finish) == [ev.Finish(cause="metric")]


def test_model_that_left_the_broker_cancels_its_leases() -> None:
    """Nobody can begin with it any more: whoever was to evaluate it is told so."""
    engine = evaluating()
    commands = engine(ev.ModelGone(version=1))
    assert {each.reason for each in commands_in(commands, ev.Cancel)} == {Reason.MODEL_GONE}
    assert not list(engine.machine.leases.open())


# misuse


def test_version_that_nobody_asked_for_is_our_own_bug() -> None:
    """It raises, and leaves the books as they were."""
    engine = reporting()
    with pytest.raises(InvalidState):
        engine(ev.VersionWritten(version=1, digest=DIGEST))
    engine.machine.check()
    assert engine.machine.version == 0


def test_books_that_contradict_each_other_pause_the_run() -> None:
    """A sum that is wrong stops the counting, with the sum as the cause; it does not crash."""
    engine = reporting()
    engine.machine.tally.n_folded += 1
    engine.machine.handle(ev.DiskFree(), engine.now)
    assert engine.is_in(Phase.PAUSED)
    assert "1 folded" in engine.machine.pausing.causes["error"]  # type: ignore[index]
