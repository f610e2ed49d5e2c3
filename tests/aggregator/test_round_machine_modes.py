"""The engine with late updates: a constant number of leases, discounts, work while a version is made."""

from typing import Any

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.leases import LeaseState
from aggregator.phases import Phase
from aggregator.recovery import recover
from shared.errors import Reason
from shared.messages import Kind, Outcome, WorkOrder
from tests.aggregator.builders import DIGEST, Engine, a_machine, a_verdict, commands_in, receipts, rows, some_settings

TEN = [f"d{i}" for i in range(10)]


def asynchronous(goal: int = 2, outstanding: int = 4, **knobs: Any) -> Engine:
    """Return an engine whose ten devices have checked in."""
    ours = {"mode": "async", "report_goal": goal, "outstanding": outstanding, "over_selection": None, "quorum": 1.0}
    engine = Engine(some_settings(round={**ours, **knobs}))
    engine.check_in(*TEN)
    return engine


def accepts(commands: list[cmd.Command]) -> list[tuple[int, int, float]]:
    """Return (base version, into, discount) of each accepted update."""
    return [
        (row.base_version, row.into, round(row.discount, 6))
        for row in rows(commands)
        if isinstance(row, rec.AcceptRecord)
    ]


def test_as_many_leases_are_out_whatever_was_accepted() -> None:
    """Four; each that ends is replaced by a device that has not counted from this version."""
    engine = asynchronous(goal=3)
    first = engine.leased()
    assert len(first) == 4
    engine.report(first[0])
    assert len(engine.leased()) == 4
    assert first[0] not in engine.leased()
    engine.check_in(first[0])  # it waits for the next version
    assert first[0] not in engine.leased()
    engine.fail(first[1])
    assert len(engine.leased()) == 4


def test_lease_that_expires_is_replaced_and_its_report_still_counts() -> None:
    """The place is refilled at once; what comes late from it is not lost."""
    engine = asynchronous(goal=5, lease_s=50)
    first = engine.leased()
    names = [engine.lease_of(device) for device in first]
    engine.pass_s(51.0)
    again = engine.leased()
    assert len(again) == 4
    assert not set(first) & set(again)
    assert accepts(engine(a_verdict(names[0]))) == [(0, 1, 1.0)]


def test_every_goalth_report_makes_a_version_and_nobody_waits() -> None:
    """A round begins in the same instant in which a version is published."""
    engine = asynchronous()
    engine.report(*engine.leased()[:2])
    assert engine.is_in(Phase.AGGREGATING)
    commands = engine.write()
    assert engine.is_in(Phase.REPORTING)
    assert [row for row in rows(commands) if isinstance(row, rec.RoundRecord)] == [rec.RoundRecord(round_id=2, into=2)]


def test_work_goes_on_while_a_version_is_made_and_counts_for_the_one_after() -> None:
    """Refilled from the version that is there, accepted for version 2 with a staleness of 1."""
    engine = asynchronous()
    engine.report(*engine.leased()[:2])
    assert engine.is_in(Phase.AGGREGATING)
    assert len(engine.leased()) == 4
    commands = engine.report(engine.leased()[0])
    assert accepts(commands) == [(0, 2, 0.707107)]
    ((_, outcome, _, _),) = receipts(commands)
    assert outcome is Outcome.ACCEPTED
    assert [each.staleness for each in commands_in(commands, cmd.SendReceipt)] == [1]
    assert engine.machine.tally.n_accepted == 2  # those of version 1
    engine.write()
    assert engine.machine.tally.n_accepted == 1


def test_written_version_is_given_out_only_once_it_is_on_the_broker() -> None:
    """Between the file and the broker nobody is asked: the old version is outdated, the new one cannot be fetched."""
    engine = asynchronous()
    engine.report(*engine.leased()[:2])
    engine(ev.VersionWritten(version=1, digest=DIGEST))
    engine.fail(engine.leased()[0])
    assert len(engine.leased()) == 3
    engine(ev.Published(version=1))
    assert len(engine.leased()) == 4
    assert {lease.record.base_version for lease in engine.machine.leases.open(Kind.TRAIN)} == {0, 1}


def test_reports_that_come_while_a_version_is_made_may_make_the_next_at_once() -> None:
    """A goal's worth has come by then: one more round begins and closes in the same instant."""
    engine = asynchronous()
    engine.report(*engine.leased()[:2])
    engine.report(*engine.leased()[:2])
    assert engine.machine.version == 0
    commands = engine.write()
    assert engine.is_in(Phase.AGGREGATING)
    kinds = [type(row) for row in rows(commands)]
    assert kinds[:3] == [rec.CommitRecord, rec.RoundRecord, rec.CloseRecord]
    assert len(commands_in(engine.write(), cmd.RoundEnded)) == 1
    assert engine.machine.version == 2


def test_report_that_lags_too_far_is_discarded_and_its_lease_cancelled_at_the_commit() -> None:
    """One version may be lost, the second is one too many."""
    engine = asynchronous(max_staleness=1)
    slow = engine.leased()[3]
    name = engine.lease_of(slow)
    for _ in range(2):
        quick = [device for device in engine.leased() if device != slow][:2]
        engine.report(*quick)
        engine.write()
        engine.check_in(*quick)
    lease = engine.machine.leases[name]
    assert (lease.state, lease.reason) == (LeaseState.CANCELLED, Reason.COMMITTED)
    assert receipts(engine(ev.Offered(device=slow, lease=name))) == [(slow, Outcome.CANCELLED, Reason.COMMITTED, True)]


def test_late_duplicate_and_stale_are_told_apart() -> None:
    """Accepted with its staleness, already counted, too stale; and the summary says how many were late."""
    engine = asynchronous(goal=2, outstanding=6, lease_s=10, max_staleness=2)
    late, doubled = engine.leased()[4:]
    first = engine.lease_of(doubled)
    engine.pass_s(11.0)
    engine.check_in(*TEN)  # all have lost theirs, and may be asked again
    engine.machine.leases.check()
    assert engine.machine.leases[first].reason is Reason.SUPERSEDED
    name = engine.lease_of(engine.leased()[0])
    device = engine.machine.leases[name].record.device
    others = [each for each in engine.leased() if each != device][:2]
    engine.report(*others)
    ended = engine.write()
    assert commands_in(ended, cmd.RoundEnded)[0].counts["late"] == 0
    assert commands_in(engine(a_verdict(name)), cmd.SendReceipt)[0].staleness == 1
    assert engine.machine.leases.summary()["late"] == 1
    assert late


def test_no_work_is_given_out_for_versions_that_will_never_be() -> None:
    """While the last version is made nobody is asked to train for the one after."""
    engine = Engine(
        some_settings(round={"mode": "async", "report_goal": 2, "over_selection": None}, stop={"rounds": 1})
    )
    engine.check_in(*TEN)
    before = len(engine.leased())
    engine.report(*engine.leased()[:2])
    assert engine.is_in(Phase.AGGREGATING)
    assert len(engine.leased()) == before - 1  # of the two that have reported only the first was replaced


def test_synchronous_round_gives_nothing_out_while_a_version_is_made() -> None:
    """What it would bring could not count."""
    engine = Engine()
    engine.check_in(*TEN)
    engine.report(*engine.leased()[:4])
    assert engine.is_in(Phase.AGGREGATING)
    assert len(engine.leased()) == 2


def test_semi_synchronous_report_counts_a_version_late() -> None:
    """Work of the round before is not cancelled at the commit; one round later it is."""
    engine = Engine(some_settings(round={"mode": "semi-sync"}, training={"max_seconds": 10}))
    engine.check_in(*TEN)
    late = engine.leased()[-1]
    engine.report(*engine.leased()[:4])
    engine.write()
    assert late in engine.leased()
    assert accepts(engine.report(late)) == [(0, 2, 0.707107)]


def test_semi_synchronous_work_is_measured_in_seconds_alone() -> None:
    """Unless epochs or steps are asked for."""
    orders = []
    for training in ({}, {"epochs": 3}, {"max_steps": 9}):
        engine = Engine(some_settings(round={"mode": "semi-sync"}, training=training))
        engine.check_in(*TEN)
        lease = next(row for row in rows(engine.log) if isinstance(row, rec.LeaseRecord))
        order = WorkOrder.model_validate_json(lease.work)
        orders.append((order.epochs, order.max_steps))
    assert orders == [(None, 10**9), (3, None), (None, 9)]


def test_model_that_leaves_the_broker_cancels_only_who_has_not_fetched_it() -> None:
    """Whoever trains already needs it no more; who has lost it and is told again does."""
    engine = asynchronous()
    fetched, offered, fetching, rebooted = engine.leased()
    names = [engine.lease_of(device) for device in (fetched, offered, fetching, rebooted)]
    engine(ev.Progressed(device=fetched, lease=names[0], phase="training"))
    engine(ev.Offered(device=offered, lease=names[1]))
    engine(ev.Progressed(device=fetching, lease=names[2], phase="fetching"))
    engine(ev.Progressed(device=rebooted, lease=names[3], phase="training"))
    engine.check_in(rebooted)  # without its lease: it is told again
    engine(ev.ModelGone(version=0))
    states = [engine.machine.leases[name].state for name in names]
    assert states == [LeaseState.OUTSTANDING] * 2 + [LeaseState.CANCELLED] * 2


def test_restart_in_the_middle_of_a_version_finds_both_that_are_being_filled() -> None:
    """Updates for version 1, closed, and for version 2: the same books, the same windows, and it goes on."""
    engine = asynchronous()
    engine.report(*engine.leased()[:2])
    engine.report(engine.leased()[0])
    again = a_machine(engine.machine.settings, prefix="life-2")
    recover(again, engine.records, None, engine.now, 0.0)
    again.check()
    assert again.tally.accepted() == engine.machine.tally.accepted()
    assert [(row.into, row.seq) for row in again.tally.accepted()] == [(1, 1), (1, 2), (2, 3)]
    life = Engine(machine=again)
    (aggregate,) = commands_in(life.log, cmd.Aggregate)
    assert aggregate.into == 1
    life.check_in(*TEN)
    life.write()
    assert again.version == 1
    assert again.tally.n_accepted == 1


def test_restart_finds_the_windows_of_each_class() -> None:
    """They come from the accepted rows, and so does how long a lease lives."""
    engine = Engine(some_settings(round={"window_s": {"min": 1, "max": 100}}))
    for device in TEN:
        kind = "gateway" if device < "d5" else "phone"
        engine(ev.CheckedIn(device=device, device_class=kind))
    engine.now += 8.0
    engine.report(*engine.leased()[:4])
    engine.write()
    timer = engine.machine.timer
    again = a_machine(engine.machine.settings, prefix="life-2")
    recover(again, engine.records, None, engine.now, 0.0)
    for kind in ("gateway", "phone", "new"):
        assert again.timer.window_s(kind) == timer.window_s(kind)
    assert again.timer.window_s("gateway") == 12.0
    assert again.timer.window_s("new") == 100.0
