"""A restart: the rows say where the run stands.

Every prefix of random journals is read back in `test_round_machine_schedules.py`.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.config import Settings
from aggregator.leases import LeaseState
from aggregator.phases import Phase
from aggregator.recovery import Recovered, recover
from aggregator.round_machine import RoundMachine
from shared.config import settings_digest, settings_json
from shared.errors import InvalidState, Reason
from shared.messages import Kind, Outcome, RoundOutcome
from tests.aggregator.builders import (
    DIGEST,
    SIX,
    Engine,
    a_lease,
    a_machine,
    an_accept,
    commands_in,
    receipts,
    reporting,
    rows,
    some_settings,
)


def restarted(
    records: Sequence[rec.Record],
    settings: Settings | None = None,
    *,
    clock: rec.RoundClock | None = None,
    now: float = 0.0,
    wall_s: float = 0.0,
) -> tuple[RoundMachine, Recovered]:
    """Return a new machine that has read a journal."""
    machine = a_machine(settings, prefix="life-2")
    return machine, recover(machine, records, clock, now, wall_s)


def leased(commands: list[cmd.Command]) -> list[str]:
    """Return the devices that are given a lease."""
    return [row.device for row in rows(commands) if isinstance(row, rec.LeaseRecord)]


def a_config(settings: Settings) -> rec.ConfigRecord:
    """Return the row of a configuration."""
    return rec.ConfigRecord(digest=settings_digest(settings), settings=settings_json(settings), from_version=1)


def test_empty_journal_is_a_new_run() -> None:
    """Nothing is found, and it waits for devices."""
    machine, found = restarted([])
    assert (machine.phase, machine.version, found.n_records, found.epoch, found.config) == (
        Phase.WAITING,
        0,
        0,
        0,
        None,
    )


def test_epochs_instances_configuration_and_digests_are_found() -> None:
    """The highest epoch, every start, the newest configuration, the digest of each version."""
    config = a_config(some_settings())
    _, found = restarted(
        [
            rec.EpochRecord(epoch=7, instance="one"),
            config,
            rec.EpochRecord(epoch=9, instance="two"),
            rec.RoundRecord(round_id=1, into=1),
            rec.CloseRecord(into=1, last_seq=0),
            rec.CommitRecord(version=1, round_id=1, digest=DIGEST),
        ]
    )
    assert (found.epoch, found.instances, found.config) == (9, {"one", "two"}, config)
    assert found.n_records == 6


def test_round_goes_on_with_the_time_that_was_left() -> None:
    """40 s were left when stored, 15 s ago: 25 s are left; the extension counts. Clocks that jump do no harm."""
    engine = reporting()
    clock = rec.RoundClock(round_id=1, left_s=40.0, n_extensions=1, wall_s=1000.0)
    for wall_s, left_s in [(1015.0, 25.0), (5000.0, 0.0), (900.0, 40.0)]:
        machine, _ = restarted(engine.records, clock=clock, now=500.0, wall_s=wall_s)
        assert machine.phase is Phase.REPORTING
        assert machine.seconds_left(500.0) == left_s
        assert machine.timer.n_extensions == 1


def test_time_without_a_broker_after_a_restart_costs_the_round_nothing() -> None:
    """Read back at 500 s, connected at 800 s: window and leases begin to run at 800 s."""
    engine = reporting()
    clock = rec.RoundClock(round_id=1, left_s=40.0, n_extensions=0, wall_s=0.0)
    machine, _ = restarted(engine.records, clock=clock, now=500.0)
    machine.start(800.0)
    assert machine.seconds_left(800.0) == 40.0
    assert machine.leases.next_expiry == 900.0
    assert machine.leases.n_outstanding(Kind.TRAIN) == 6


def test_clock_of_another_round_says_nothing() -> None:
    """The round gets a whole window."""
    clock = rec.RoundClock(round_id=8, left_s=1.0, n_extensions=2, wall_s=0.0)
    machine, _ = restarted(reporting().records, clock=clock)
    assert (machine.seconds_left(0.0), machine.timer.n_extensions) == (100.0, 0)


def test_leases_that_were_out_are_good_for_a_whole_life() -> None:
    """And their devices get the same lease again."""
    engine = reporting()
    lease = engine.lease_of("d0")
    machine, _ = restarted(engine.records, now=50.0)
    machine.start(50.0)
    commands = machine.handle(ev.CheckedIn(device="d0"), 50.0)
    assert commands_in(commands, cmd.Assign) == [cmd.Assign(lease=lease, device="d0", seconds_left=100.0)]


def test_lease_that_had_expired_stays_admissible() -> None:
    """A device with two open leases had let the first expire: both are known, the second is live."""
    first, second = a_lease(1, "d1"), a_lease(2, "d1")
    machine, _ = restarted([rec.RoundRecord(round_id=1, into=1), first, second])
    assert machine.leases[first.lease].state is LeaseState.EXPIRED
    assert machine.leases[second.lease].state is LeaseState.OUTSTANDING


def test_final_outcomes_are_told_again() -> None:
    """Accepted, failed: the same words as before the restart."""
    engine = reporting()
    accepted, failed = engine.lease_of("d0"), engine.lease_of("d1")
    engine.report("d0")
    engine.fail("d1")
    machine, _ = restarted(engine.records)
    machine.start(0.0)
    for device, name, outcome, reason in [
        ("d0", accepted, Outcome.ACCEPTED, None),
        ("d1", failed, Outcome.FAILED, Reason.TRAINING),
    ]:
        commands = machine.handle(ev.Offered(device=device, lease=name), 0.0)
        assert receipts(commands) == [(device, outcome, reason, True)]


def test_device_that_failed_in_this_round_is_still_barred() -> None:
    """A restart does not give it a second try in the same round."""
    engine = reporting()
    engine.fail("d0")
    machine, _ = restarted(engine.records)
    machine.start(0.0)
    assert leased(machine.handle(ev.CheckedIn(device="d0"), 0.0)) == []
    assert leased(machine.handle(ev.CheckedIn(device="d6"), 0.0)) == ["d6"]


def test_closed_version_is_made_again() -> None:
    """Killed while it was made: the same Aggregate, of the same updates."""
    engine = reporting()
    engine.report(*SIX[:4])
    machine, _ = restarted(engine.records)
    assert machine.phase is Phase.AGGREGATING
    assert cmd.Aggregate(into=1, round_id=1) in machine.start(0.0)
    assert machine.tally.accepted() == engine.machine.tally.accepted()


def test_committed_version_is_published_again_and_ends_its_round() -> None:
    """Killed before it was published: not made again; with its publication the round ends as it would have."""
    engine = reporting()
    engine.report(*SIX[:4])
    engine(ev.VersionWritten(version=1, digest=DIGEST))
    machine, found = restarted(engine.records, now=1000.0)
    assert not commands_in(machine.start(1000.0), cmd.Aggregate)
    assert (machine.phase, machine.version, machine.last_outcome) == (Phase.AGGREGATING, 1, RoundOutcome.COMMITTED)
    assert found.participants == ("d0", "d1", "d2", "d3")
    commands = machine.handle(ev.Published(version=1), 1005.0)
    assert machine.phase is Phase.WAITING
    (ended,) = commands_in(commands, cmd.RoundEnded)
    assert (ended.round_id, ended.version, ended.outcome, ended.seconds) == (1, 1, RoundOutcome.COMMITTED, 5.0)
    assert [row.reason for row in rows(commands) if isinstance(row, rec.OutcomeRecord)] == [Reason.COMMITTED] * 2


def test_version_that_is_being_evaluated_on_devices_was_published() -> None:
    """So its round is over: it does not end a second time, and nobody is asked twice."""
    engine = an_evaluation()
    machine, _ = restarted(engine.records, engine.machine.settings)
    machine.start(0.0)
    assert machine.phase is Phase.WAITING
    assert not commands_in(machine.handle(ev.Published(version=1), 0.0), cmd.RoundEnded)


def an_evaluation(**evaluation: Any) -> Engine:
    """Return a run whose first version is being evaluated by devices, and only by devices."""
    engine = Engine(some_settings(evaluation={"federated_every": 1, "central_every": 0, **evaluation}))
    engine.check_in(*SIX)
    engine.report(*SIX[:4])
    engine.check_in(*SIX[:4])
    engine.write()
    assert list(engine.machine.leases.open(Kind.EVALUATE))
    return engine


def evaluated(engine: Engine, accuracy: float, *devices: str) -> list[cmd.Command]:
    """Let devices report what they found."""
    return engine(
        *(
            ev.Evaluated(device=d, lease=engine.lease_of(d), num_examples=5, metrics=(("accuracy", accuracy),))
            for d in devices
        )
    )


def test_evaluation_goes_on_after_a_restart() -> None:
    """What was reported counts, who was asked may still report, and nobody is waited for longer than a window."""
    engine = an_evaluation(devices=3)
    first, second, third = sorted(lease.record.device for lease in engine.machine.leases.open(Kind.EVALUATE))
    evaluated(engine, 0.5, first)
    machine, _ = restarted(engine.records, engine.machine.settings)
    again = Engine(machine=machine)
    evaluated(again, 0.7, second)
    (done,) = commands_in(again.pass_s(engine.machine.settings.evaluation.window_s), cmd.EvaluationDone)
    assert (done.version, done.n_asked) == (1, 3)
    assert [(device, metrics[0][1]) for device, _, metrics in done.reports] == [(first, 0.5), (second, 0.7)]
    assert third not in {lease.record.device for lease in machine.leases.open(Kind.EVALUATE)}


def test_last_evaluation_goes_on_after_a_restart_for_a_whole_window() -> None:
    """Who was asked may still report, who comes is asked; nobody knows how many are still to come."""
    engine = Engine(some_settings(stop={"rounds": 1}, evaluation={"at_end": True, "window_s": 30}))
    engine.check_in(*SIX)
    engine.report(*SIX[:4])
    engine.write()
    engine.check_in("d0", "d1")
    evaluated(engine, 0.5, "d0")
    machine, _ = restarted(engine.records, engine.machine.settings)
    again = Engine(machine=machine)
    assert leased(again.check_in("d2")) == ["d2"]
    assert not again.leased()
    evaluated(again, 0.7, "d1", "d2")
    assert not commands_in(again.pass_s(29.0), cmd.Finish)
    (done,) = commands_in(again.pass_s(1.0), cmd.EvaluationDone)
    assert [device for device, _, _ in done.reports] == ["d0", "d1", "d2"]
    assert machine.phase is Phase.FINISHED
    assert isinstance(again.records[-1], rec.FinishRecord)


def test_patience_on_the_metrics_of_devices_survives_a_restart() -> None:
    """Best value and patience are those that the journal's evaluations give, to the last that was complete."""
    stop = {"rounds": 9, "patience": 5, "metric": "accuracy"}
    engine = Engine(some_settings(evaluation={"federated_every": 1, "central_every": 0, "devices": 6}, stop=stop))
    for accuracy in (0.5, 0.7, 0.6):
        engine.check_in(*SIX)
        engine.report(*SIX[:4])
        engine.check_in(*SIX[:4])
        engine.write()
        devices = [lease.record.device for lease in engine.machine.leases.open(Kind.EVALUATE)]
        done = commands_in(evaluated(engine, accuracy, *devices), cmd.EvaluationDone)
        engine.machine.federated_metrics(done[0].version, {"accuracy": accuracy})
    before = engine.machine.stopping
    assert (before.best, before.best_version, before.n_since_best) == (0.7, 2, 1)
    machine, _ = restarted(engine.records, engine.machine.settings)
    after = machine.stopping
    assert after.best == pytest.approx(0.7)
    assert (after.best_version, after.n_since_best) == (2, 1)
    assert after.metrics == pytest.approx({"accuracy": 0.6})


@pytest.mark.parametrize("n_lost", [0, 1])
def test_voided_updates_stay_voided(n_lost: int) -> None:
    """Also when the row of the abandoned round was not durable any more."""
    engine = reporting()
    engine.report(*SIX[:4])
    engine(ev.AggregationFailed(detail="not finite"), ev.ResumeAsked(void=True))
    assert isinstance(engine.records[-1], rec.AbandonRecord)
    machine, _ = restarted(engine.records[: len(engine.records) - n_lost])
    machine.check()
    assert (machine.phase, machine.tally.n_voided, machine.tally.n_accepted) == (Phase.WAITING, 4, 0)
    assert not commands_in(machine.start(0.0), cmd.Aggregate)


@pytest.mark.parametrize("is_closed", [False, True])
def test_update_that_a_repair_voided_does_not_count(is_closed: bool) -> None:
    """Its round goes on without it; a version that was being made of it is abandoned, and begun again."""
    engine = reporting()
    engine.report(*SIX[: 4 if is_closed else 3])
    (*_, accept) = (row for row in engine.records if isinstance(row, rec.AcceptRecord))
    machine, _ = restarted([*engine.records, rec.VoidRecord(into=1, lease=accept.lease)])
    machine.check()
    assert (machine.tally.n_voided, machine.tally.n_accepted) == (1, 3 if is_closed else 2)
    assert machine.phase is (Phase.WAITING if is_closed else Phase.REPORTING)
    assert not commands_in(machine.start(0.0), cmd.Aggregate)
    again = Engine(machine=machine)
    again.check_in(*SIX)
    if not again.is_in(Phase.AGGREGATING):
        again.report(*again.leased()[:2])
    again.write()
    assert machine.version == 1


def test_stopping_counts_as_before() -> None:
    """Best value, its version and patience are functions of the journal."""
    engine = Engine(some_settings(stop={"rounds": 9, "patience": 5}))
    for accuracy in (0.5, 0.7, 0.6):
        engine.round(*SIX, accuracy=accuracy)
    machine, _ = restarted(engine.records, engine.machine.settings)
    assert (machine.stopping.best, machine.stopping.best_version, machine.stopping.n_since_best) == (0.7, 2, 1)
    assert machine.stopping.metrics == {"accuracy": 0.6}


def a_finished_run(**tables: Any) -> Engine:
    """Return a run of one version."""
    engine = Engine(some_settings(stop={"rounds": 1}, **tables))
    engine.records.insert(0, a_config(engine.machine.settings))
    engine.round(*SIX)
    assert engine.is_in(Phase.FINISHED)
    return engine


def test_finished_run_stays_finished() -> None:
    """Started again it says so, with the same cause."""
    engine = a_finished_run()
    machine, _ = restarted(engine.records, engine.machine.settings)
    assert machine.is_finished
    assert commands_in(machine.start(0.0), cmd.Finish) == [cmd.Finish(cause="rounds")]


def test_finished_run_goes_on_when_it_is_told_to() -> None:
    """One version was asked for, now three are."""
    engine = a_finished_run()
    machine, _ = restarted(engine.records, some_settings(stop={"rounds": 3}))
    assert not commands_in(machine.start(0.0), cmd.Finish)
    machine.handle(ev.Published(version=1), 0.0)
    assert machine.phase is Phase.WAITING


def test_finished_run_that_was_told_to_go_on_still_does_after_a_kill() -> None:
    """Killed before its next commit, with the longer settings already in the journal: they hold."""
    engine = a_finished_run()
    longer = some_settings(stop={"rounds": 3})
    machine, _ = restarted([a_config(engine.machine.settings), *engine.records, a_config(longer)], longer)
    assert not commands_in(machine.start(0.0), cmd.Finish)
    assert not machine.is_finished


def test_run_stopped_by_hand_goes_on_when_it_is_started_again() -> None:
    """The operator stopped it, the operator starts it."""
    engine = Engine()
    engine.records.append(a_config(engine.machine.settings))
    engine.check_in(*SIX)
    engine(ev.StopAsked())
    machine, _ = restarted(engine.records)
    machine.start(0.0)
    assert not machine.is_finished
    assert leased(machine.handle(ev.CheckedIn(device="d0"), 0.0)) == ["d0"]


def test_run_ended_by_metrics_of_devices_stays_finished() -> None:
    """They are not in the rows that decide; the end is, and holds as long as nobody asks for another."""
    settings = some_settings(stop={"rounds": None, "at_least": 0.9}, evaluation={"central_every": 0})
    engine = Engine(settings)
    engine.records.append(a_config(settings))
    engine.round(*SIX)
    engine.machine.federated_metrics(1, {"accuracy": 0.95})
    engine(ev.DeadlinePassed())
    machine, _ = restarted(engine.records, settings)
    assert machine.is_finished
    assert commands_in(machine.start(0.0), cmd.Finish) == [cmd.Finish(cause="metric")]


def test_rows_that_contradict_each_other_are_refused() -> None:
    """Accepted twice, or committed without a close: not ours to guess."""
    row = a_lease(1, "d1")
    journals: list[list[rec.Record]] = [
        [row, an_accept(number=1), an_accept(number=1)],
        [rec.CommitRecord(version=1, round_id=1, digest=DIGEST)],
        [row, row],
    ]
    for records in journals:
        with pytest.raises(InvalidState):
            restarted(records)
