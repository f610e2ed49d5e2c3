"""The engine by hand: goal 4, quorum 3, six invited, a window of 100 s that may grow twice."""

import math
from typing import Any

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.leases import LeaseState
from aggregator.phases import EndCause, Phase
from shared.errors import InvalidState, Reason
from shared.messages import Outcome, RoundOutcome
from tests.aggregator.builders import (
    DIGEST,
    SIX,
    WINDOW_S,
    Engine,
    a_verdict,
    commands_in,
    receipts,
    reporting,
    rows,
)

# a round begins


def test_round_waits_for_a_quorum_of_devices() -> None:
    """Two of the three that a quorum needs are there: nobody is asked, and both are told to come back."""
    engine = Engine()
    commands = engine.check_in("d0", "d1")
    assert engine.is_in(Phase.WAITING)
    assert engine.machine.n_at_hand(engine.now) == 2
    assert [(each.device, each.reason) for each in commands_in(commands, cmd.ComeBack)] == [
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
    assert [each.reason for each in commands_in(late, cmd.ComeBack)] == [Reason.NOT_DRAWN]
    assert engine.leased() == SIX


def test_lease_is_durable_before_its_assignment() -> None:
    """An Assignment is only published behind the row of its lease."""
    engine = Engine()
    commands = engine.machine.handle(ev.CheckedIn(device="d0"), 0.0)
    commands += engine.machine.handle(ev.CheckedIn(device="d1"), 0.0)
    commands += engine.machine.handle(ev.CheckedIn(device="d2"), 0.0)
    assert not commands_in(commands, cmd.Assign)
    leases = [each for each in commands_in(commands, cmd.Journal) if isinstance(each.record, rec.LeaseRecord)]
    for journal in leases:
        assert isinstance(journal.record, rec.LeaseRecord)
        (assign,) = journal.then
        assert assign == cmd.Assign(lease=journal.record.lease, device=journal.record.device, seconds_left=WINDOW_S)
    assert len(leases) == 3


def test_device_that_arrives_in_mid_round_is_asked() -> None:
    """A round that began with four devices has two places left: the device from the second terminal gets one."""
    engine = Engine()
    engine.check_in(*SIX[:4])
    engine.report("d0")
    commands = engine.check_in("late")
    assert [each.device for each in commands_in(commands, cmd.Assign)] == ["late"]
    assert not commands_in(commands, cmd.ComeBack)


# a round ends


def test_goal_closes_the_round() -> None:
    """The fourth report closes: CLOSE names the last that counts, and Aggregate waits behind it."""
    engine = reporting()
    engine.report(*SIX[:3])
    assert engine.is_in(Phase.REPORTING)
    commands = engine.report("d3")
    assert engine.is_in(Phase.AGGREGATING)
    assert rows(commands)[-1] == rec.CloseRecord(into=1, last_seq=4, cause=EndCause.GOAL)
    assert commands[-1] == cmd.Aggregate(into=1, round_id=1)


def test_commit_cancels_what_is_still_out_and_ends_the_round() -> None:
    """The version is journalled, then published; then devices five and six are told to stop, and the round is over."""
    engine = reporting()
    engine.report(*SIX[:4])
    written = engine(ev.VersionWritten(version=1, digest=DIGEST, metrics=(("accuracy", 0.5),)))
    assert rows(written) == [
        rec.CommitRecord(version=1, round_id=1, digest=DIGEST, metrics=(("accuracy", 0.5),)),
    ]
    assert written[-1] == cmd.PublishModel(version=1)
    published = engine(ev.Published(version=1))
    assert [(each.device, each.reason) for each in commands_in(published, cmd.Cancel)] == [
        ("d4", Reason.COMMITTED),
        ("d5", Reason.COMMITTED),
    ]
    (ended,) = commands_in(published, cmd.RoundEnded)
    assert (ended.round_id, ended.version, ended.outcome) == (1, 1, RoundOutcome.COMMITTED)
    assert (ended.counts["accepted"], ended.counts["cancelled"], ended.metrics) == (4, 2, {"accuracy": 0.5})
    assert engine.is_in(Phase.WAITING)
    assert engine.machine.n_at_hand(engine.now) == 0


def test_nobody_is_asked_before_the_version_is_published() -> None:
    """Between the row of the version and its publication, a device that checks in is told to come back."""
    engine = reporting()
    engine.report(*SIX[:4])
    assert not commands_in(engine.check_in("d0", "d1", "d2"), cmd.Assign)
    engine(ev.VersionWritten(version=1, digest=DIGEST))
    assert not commands_in(engine.check_in("d6"), cmd.Assign)
    commands = engine(ev.Published(version=1))
    assert [each.device for each in commands_in(commands, cmd.Assign)] != []
    assert all(engine.machine.leases[each.lease].record.base_version == 1 for each in commands_in(commands, cmd.Assign))


def test_deadline_with_a_quorum_closes() -> None:
    """Three of four reports are there after 100 s: enough."""
    engine = reporting()
    engine.report(*SIX[:3])
    commands = engine.pass_s(WINDOW_S)
    assert engine.is_in(Phase.AGGREGATING)
    assert rows(commands)[-1] == rec.CloseRecord(into=1, last_seq=3, cause=EndCause.DEADLINE)


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
    engine = reporting()
    engine.report("d0")
    extended = commands_in(engine.work_on(199.0), cmd.WindowExtended)
    assert engine.is_in(Phase.REPORTING)
    assert engine.machine.timer.n_extensions == 2
    assert [(each.have, each.need, each.n_outstanding) for each in extended] == [(1, 3, 5)] * 2
    assert [(each.times, each.at_most, each.seconds_left) for each in extended] == [(1, 2, 50.0), (2, 2, 50.0)]
    commands = engine.pass_s(1.0)
    assert rec.AbandonRecord(round_id=1) in rows(commands)
    (ended,) = commands_in(commands, cmd.RoundEnded)
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
    assert rows(commands)[-1] == rec.CloseRecord(into=1, last_seq=3, cause=EndCause.NOBODY_LEFT)
    assert {record.round_id for record in engine.machine.tally.accepted()} == {1, 2}


def test_goal_reached_between_rounds_goes_straight_to_aggregating() -> None:
    """An abandoned round's leases are good: their reports reach the goal in the back-off, in a round of its own."""
    engine = reporting(round={"quorum": 1.0})
    engine.report(*SIX[:3])
    engine.work_on(200.0)
    assert engine.is_in(Phase.WAITING)
    commands = engine.report("d3")
    assert engine.is_in(Phase.AGGREGATING)
    assert [type(row) for row in rows(commands)] == [rec.AcceptRecord, rec.RoundRecord, rec.CloseRecord]
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
    assert cmd.DropUpload(lease=lease) in commands
    assert engine.leased() == [*SIX[1:], "d6"]
    engine.fail("d1")
    assert not commands_in(engine.check_in("d0"), cmd.Assign)
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
    assert engine(ev.Offered(device="d0", lease=lease)) == [cmd.TakeUpload(lease=lease)]


def test_device_with_an_accepted_update_is_not_asked_again_for_the_version() -> None:
    """It checks in at once and waits: another report from the same base version would count twice."""
    engine = reporting()
    engine.report("d0")
    engine.fail("d1")
    commands = engine.check_in("d0")
    assert [each.reason for each in commands_in(commands, cmd.ComeBack)] == [Reason.NOT_DRAWN]
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
    assert [(each.device, each.lease, each.reason) for each in commands_in(commands, cmd.Cancel)] == [
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
