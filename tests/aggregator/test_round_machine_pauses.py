"""The engine standing still: why, for how long, and what it costs."""

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.phases import Phase
from shared.errors import Reason
from shared.messages import Outcome, RoundOutcome
from tests.aggregator.builders import (
    SIX,
    commands_in,
    receipts,
    reporting,
    rows,
)


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
    assert [each.reason for each in commands_in(checked_in, cmd.ComeBack)] == [Reason.PAUSED]
    assert not commands_in(checked_in, cmd.Assign)
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
    assert commands_in(commands, cmd.Aggregate) == [cmd.Aggregate(into=1, round_id=1)]
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
    assert cmd.Forget(into=1) in commands
    assert [each.lease for each in commands_in(commands, cmd.DropUpload)] == voided
    (ended,) = commands_in(commands, cmd.RoundEnded)
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


def test_void_without_a_pause_is_refused_with_words() -> None:
    """Nothing changes, and the operator is told what to do first."""
    engine = reporting()
    engine.report(*SIX[:3])
    assert "pause it first" in (engine.machine.pausing.objection(ev.ResumeAsked(void=True), engine.machine.phase) or "")
    assert engine(ev.ResumeAsked(void=True)) == []
    assert engine.machine.tally.n_accepted == 3


def test_void_while_a_version_is_made_is_refused_with_words_and_the_run_stays_paused() -> None:
    """What is being counted right now cannot be taken out of the sum: the version comes, and nothing else happens."""
    engine = reporting()
    engine.report(*SIX[:4])
    engine(ev.PauseAsked())
    assert "being made" in (engine.machine.pausing.objection(ev.ResumeAsked(void=True), engine.machine.phase) or "")
    assert engine(ev.ResumeAsked(void=True)) == []
    assert engine.is_in(Phase.PAUSED)
    engine.write()
    assert (engine.machine.version, engine.machine.tally.n_voided) == (1, 0)
    assert engine.machine.pausing.objection(ev.ResumeAsked(), engine.machine.phase) is None


def test_version_that_comes_while_paused_counts_and_nothing_is_given_out() -> None:
    """The version is committed and the round ends; the next begins, and devices are asked, only after the pause."""
    engine = reporting(evaluation={"federated_every": 1})
    engine.report(*SIX[:4])
    engine.check_in("d0", "d1", "d2")
    engine(ev.PauseAsked())
    commands = engine.write()
    assert engine.machine.version == 1
    assert commands_in(commands, cmd.RoundEnded)
    assert not commands_in(commands, cmd.Assign)
    resumed = engine(ev.ResumeAsked())
    assert engine.is_in(Phase.REPORTING)
    assert len(commands_in(resumed, cmd.Assign)) == 3
