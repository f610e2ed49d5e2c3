"""What becomes of a report: decided once, journalled, then told."""

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.leases import LeaseState
from shared.errors import Reason
from shared.messages import Outcome
from tests.aggregator.builders import SIX, Engine, a_verdict, commands_in, receipts, reporting, rows


def test_accepted_report_is_journalled_then_folded_then_told() -> None:
    """In this order; nothing of it stands outside of the row."""
    engine = reporting()
    lease = engine.lease_of("d0")
    (journal,) = engine.machine.handle(a_verdict(lease), 0.0)
    assert isinstance(journal, cmd.Journal)
    assert isinstance(journal.record, rec.AcceptRecord)
    fold, receipt = journal.then
    assert fold == cmd.Fold(record=journal.record)
    assert isinstance(receipt, cmd.SendReceipt)
    assert (receipt.outcome, receipt.staleness) == (Outcome.ACCEPTED, 0)


@pytest.mark.parametrize("state", [LeaseState.DISCARDED, LeaseState.REJECTED, LeaseState.FAILED])
def test_outcome_is_journalled_before_it_is_told(state: LeaseState) -> None:
    """With its reason and the device's own word; then its upload is dropped."""
    engine = reporting()
    lease = engine.machine.leases[engine.lease_of("d0")]
    (journal,) = engine.machine.reports.conclude(lease, state, Reason.NORM, "12 is over 10")
    assert isinstance(journal, cmd.Journal)
    name = lease.record.lease
    assert journal.record == rec.OutcomeRecord(
        lease=name, outcome=Outcome(state.value), reason=Reason.NORM, detail="12 is over 10"
    )
    receipt, drop = journal.then
    assert isinstance(receipt, cmd.SendReceipt)
    assert (receipt.reason, receipt.detail, receipt.repeat) == (Reason.NORM, "12 is over 10", False)
    assert drop == cmd.DropUpload(lease=name)


def test_cancelled_lease_is_told_by_a_cancel() -> None:
    """It makes the device stop, which a receipt would not."""
    engine = reporting()
    lease = engine.machine.leases[engine.lease_of("d0")]
    (journal,) = engine.machine.reports.conclude(lease, LeaseState.CANCELLED, Reason.COMMITTED)
    assert isinstance(journal, cmd.Journal)
    assert journal.then[0] == cmd.Cancel(lease=lease.record.lease, device="d0", reason=Reason.COMMITTED)


def test_decided_lease_is_only_told_again() -> None:
    """Whatever comes later: no row, the first outcome, `repeat`."""
    engine = reporting()
    name = engine.lease_of("d0")
    engine.fail("d0")
    lease, reports = engine.machine.leases[name], engine.machine.reports
    for commands in (
        reports.conclude(lease, LeaseState.REJECTED, Reason.DIGEST),
        reports.verified(a_verdict(name), 1, now=1.0),
        reports.offered(lease, is_paused=False),
        reports.offered(lease, is_paused=True),
    ):
        assert receipts(commands) == [("d0", Outcome.FAILED, Reason.TRAINING, True)]
        assert not rows(commands)


def test_evaluation_keeps_its_metrics_in_the_journal() -> None:
    """So that what a device said can be told again, and read later."""
    engine = Engine()
    engine.check_in("d0")
    engine._done(list(engine.machine.invitations.ask_to_evaluate(1, 1, 60.0, 0.0)))
    name, metrics = engine.lease_of("d0"), (("accuracy", (9.0, 10.0)),)
    commands = engine(ev.Evaluated(device="d0", lease=name, num_examples=10, metrics=metrics))
    assert rows(commands) == [rec.OutcomeRecord(lease=name, outcome=Outcome.ACCEPTED, num_examples=10, metrics=metrics)]
    assert receipts(commands) == [("d0", Outcome.ACCEPTED, None, False)]
    again = engine(ev.Evaluated(device="d0", lease=name, num_examples=11, metrics=()))
    assert receipts(again) == [("d0", Outcome.ACCEPTED, None, True)]


def test_superseded_are_the_open_leases_of_one_device() -> None:
    """Those of others stay."""
    engine = reporting()
    engine.machine.leases.expire(1e9)
    commands = engine.machine.reports.supersede("d0")
    assert [
        each.record.lease for each in commands_in(commands, cmd.Journal) if isinstance(each.record, rec.OutcomeRecord)
    ]
    assert sum(1 for _ in engine.machine.leases.open()) == 5


def test_outcome_says_whether_its_device_was_lost() -> None:
    """Cancelled while its device was away, or long after its last word: lost; at work, or offering: not."""
    engine = reporting()
    leases, reports = engine.machine.leases, engine.machine.reports
    engine(ev.DeviceOffline(device="d0"))
    names = {device: engine.lease_of(device) for device in SIX}
    leases.move(leases[names["d1"]], LeaseState.EXPIRED)

    def is_lost(device: str, state: LeaseState, reason: Reason) -> bool:
        (journal,) = reports.conclude(leases[names[device]], state, reason)
        assert isinstance(journal, cmd.Journal)
        assert isinstance(journal.record, rec.OutcomeRecord)
        return journal.record.is_lost

    assert is_lost("d0", LeaseState.CANCELLED, Reason.COMMITTED)
    assert is_lost("d1", LeaseState.DISCARDED, Reason.RUN_FINISHED)
    assert not is_lost("d2", LeaseState.CANCELLED, Reason.COMMITTED)
    assert not is_lost("d3", LeaseState.DISCARDED, Reason.GOAL_MET)
    assert is_lost("d4", LeaseState.CANCELLED, Reason.SUPERSEDED)


def outcome_of(engine: Engine, device: str) -> rec.OutcomeRecord:
    """Return how the last lease of a device ended."""
    names = {row.lease for row in engine.records if isinstance(row, rec.LeaseRecord) and row.device == device}
    *_, last = (row for row in engine.records if isinstance(row, rec.OutcomeRecord) and row.lease in names)
    return last


def test_update_that_was_on_its_way_up_when_the_version_was_made_says_so() -> None:
    """In the row, for the choice of codecs; one that had not begun says nothing of its link."""
    engine = reporting()
    uploading, training, quick = (engine.lease_of(device) for device in ("d4", "d5", "d3"))
    for phase in ("training", "uploading"):
        engine(ev.Progressed(device="d4", lease=uploading, phase=phase))
    engine(ev.Progressed(device="d5", lease=training, phase="training"))
    engine.report("d0", "d1", "d2", "d3")
    engine.write()
    assert outcome_of(engine, "d4").was_uploading
    assert not outcome_of(engine, "d5").was_uploading
    assert engine.machine.tally.records.uplink("d4") == 0.0
    assert engine.machine.tally.records.uplink("d5") is None
    assert engine.machine.leases[quick].state is LeaseState.ACCEPTED


def test_update_that_is_offered_after_the_goal_says_nothing_of_its_link() -> None:
    """It had its answer before it began to send."""
    engine = reporting()
    name = engine.lease_of("d4")
    engine.report("d0", "d1", "d2", "d3")  # the version is being made
    engine(ev.Progressed(device="d4", lease=name, phase="reporting"), ev.Offered(device="d4", lease=name))
    assert not outcome_of(engine, "d4").was_uploading
