"""The end of a run, and evaluation on devices beside it."""

from typing import Any

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.phases import Phase
from shared.errors import Reason
from shared.messages import Kind, Outcome
from tests.aggregator.builders import (
    SIX,
    Engine,
    commands_in,
    receipts,
    reporting,
    rows,
    some_settings,
)

# the end


def test_stop_finishes_with_the_last_version() -> None:
    """By the operator: what is out becomes `discarded: run_finished`, and only when that is durable the end is told."""
    engine = reporting()
    engine.report("d0")
    commands = engine(ev.StopAsked())
    assert engine.is_in(Phase.FINISHED)
    assert [each[1:3] for each in receipts(commands)] == [(Outcome.DISCARDED, Reason.RUN_FINISHED)] * 5
    assert rows(commands)[-1] == rec.FinishRecord(cause="operator")
    assert commands[-2:] == [cmd.PublishRound(), cmd.Finish(cause="operator")]
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
    assert commands_in(commands, cmd.Finish) == [cmd.Finish(cause="rounds")]
    assert len(commands_in(commands, cmd.RoundEnded)) == 1
    assert not commands_in(commands, cmd.Cancel)  # their leases end as discarded: run_finished


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
    assert commands_in(commands, cmd.Finish) == [cmd.Finish(cause=cause)]
    assert engine.machine.version == 3


def test_finished_run_answers_whoever_asks() -> None:
    """A check-in is told to come back, a held lease and an offer get their final receipt again."""
    engine = reporting()
    lease = engine.lease_of("d0")
    engine(ev.StopAsked())
    final = ("d0", Outcome.DISCARDED, Reason.RUN_FINISHED, True)
    assert receipts(engine(ev.CheckedIn(device="d0", holds=frozenset({lease})))) == [final]
    assert receipts(engine(ev.Offered(device="d0", lease=lease))) == [final]
    (come_back,) = commands_in(engine.check_in("new"), cmd.ComeBack)
    assert come_back.reason is Reason.RUN_FINISHED
    assert engine(ev.BrokerFound()) == [cmd.PublishRound()]


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
    commands: list[cmd.Command] = []
    for device in (first, second):
        metrics = (("accuracy", (8.0, 10.0)),)
        lease = engine.lease_of(device)
        commands += engine(ev.Evaluated(device=device, lease=lease, num_examples=10, metrics=metrics))
    (done,) = commands_in(commands, cmd.EvaluationDone)
    assert (done.version, done.n_asked, [each[0] for each in done.reports]) == (1, 2, [first, second])


def test_evaluation_window_ends_with_who_reported_and_cancels_the_rest() -> None:
    """After 30 s the one report that came is handed over; the other device is told to stop, and is free again."""
    engine = evaluating()
    first, second = evaluators(engine)
    engine(ev.Evaluated(device=first, lease=engine.lease_of(first), num_examples=10, metrics=(("loss", 1.0),)))
    commands = engine.pass_s(30.0)
    (done,) = commands_in(commands, cmd.EvaluationDone)
    assert [each[0] for each in done.reports] == [first]
    assert [each.device for each in commands_in(commands, cmd.Cancel)] == [second]
    assert not list(engine.machine.leases.open(Kind.EVALUATE))


def test_evaluation_ends_early_when_nobody_will_report_any_more() -> None:
    """Both devices failed at it: the books are closed with no report."""
    engine = evaluating()
    commands = [each for device in evaluators(engine) for each in engine.fail(device)]
    (done,) = commands_in(commands, cmd.EvaluationDone)
    assert done.reports == ()


def test_metrics_of_devices_stop_a_run_without_central_evaluation() -> None:
    """With no data on the server the devices' own accuracy decides, at the next event."""
    stop = {"rounds": None, "at_least": 0.9}
    engine = Engine(some_settings(stop=stop, evaluation={"federated_every": 1, "central_every": 0}))
    engine.round(*SIX)
    engine.machine.federated_metrics(1, {"accuracy": 0.95})
    assert commands_in(engine(ev.DeadlinePassed()), cmd.Finish) == [cmd.Finish(cause="metric")]


def test_model_that_left_the_broker_cancels_its_leases() -> None:
    """Nobody can begin with it any more: whoever was to evaluate it is told so."""
    engine = evaluating()
    commands = engine(ev.ModelGone(version=1))
    assert {each.reason for each in commands_in(commands, cmd.Cancel)} == {Reason.MODEL_GONE}
    assert not list(engine.machine.leases.open())


# the last evaluation


def ending(**evaluation: Any) -> Engine:
    """The only version of a run was committed by four of six devices, and is to be evaluated before the end."""
    settings = some_settings(stop={"rounds": 1}, evaluation={"at_end": True, "window_s": 30, **evaluation})
    engine = Engine(settings)
    engine.check_in(*SIX)
    engine.report(*SIX[:4])
    engine.write(accuracy=0.5)
    return engine


def evaluate(engine: Engine, *devices: str) -> list[cmd.Command]:
    """Let devices report what they have found."""
    metrics = (("accuracy", (8.0, 10.0)),)
    return [
        each
        for device in devices
        for each in engine(ev.Evaluated(device=device, lease=engine.lease_of(device), num_examples=10, metrics=metrics))
    ]


def test_last_version_is_evaluated_by_every_device_before_the_run_ends() -> None:
    """Whoever was still training is set free; each is asked once, when it comes; nobody trains any more."""
    engine = ending()
    assert engine.is_in(Phase.WAITING)
    assert [each.device for each in commands_in(engine.log, cmd.Cancel)] == ["d4", "d5"]
    for device in SIX:
        engine.check_in(device)
        engine.check_in(device)
        assert evaluators(engine) == [device]
        assert not engine.leased()
        commands = evaluate(engine, device)
        assert bool(commands_in(commands, cmd.Finish)) is (device == SIX[-1])
    (done,) = commands_in(engine.log, cmd.EvaluationDone)
    assert (done.version, done.n_asked, [each[0] for each in done.reports]) == (1, 6, list(SIX))
    assert commands_in(engine.log, cmd.Finish) == [cmd.Finish(cause="rounds")]
    assert engine.is_in(Phase.FINISHED)


def test_last_evaluation_does_not_wait_for_devices_that_left_or_refuse() -> None:
    """Two of six are gone, and one of the others is on battery: three reports are all that there can be."""
    engine = ending()
    engine(ev.DeviceOffline(device="d0"), ev.DeviceOffline(device="d1"))
    engine(ev.CheckedIn(device="d2", refusal=Reason.BATTERY))
    engine.check_in("d3", "d4", "d5")
    assert not commands_in(evaluate(engine, "d3", "d4"), cmd.Finish)
    assert commands_in(evaluate(engine, "d5"), cmd.Finish)


def test_last_evaluation_ends_with_its_window() -> None:
    """Nobody came but one: after 30 s the run ends with its report, and the books are in order."""
    engine = ending()
    engine.check_in("d0", "d1")
    evaluate(engine, "d0")
    assert not commands_in(engine.pass_s(29.0), cmd.Finish)
    commands = engine.pass_s(1.0)
    (done,) = commands_in(commands, cmd.EvaluationDone)
    assert [each[0] for each in done.reports] == ["d0"]
    assert commands_in(commands, cmd.Finish)


def test_last_evaluation_without_anybody_ends_with_its_window() -> None:
    """All have left: it is not complete at once, for somebody may come back."""
    engine = ending()
    engine(*(ev.DeviceOffline(device=device) for device in SIX))
    assert not commands_in(engine.pass_s(29.0), cmd.Finish)
    assert commands_in(engine.pass_s(1.0), cmd.Finish)


def test_last_evaluation_asks_no_more_than_so_many() -> None:
    """Two of six; when both have reported, the others are not waited for."""
    engine = ending(devices=2)
    engine.check_in(*SIX)
    asked = evaluators(engine)
    assert len(asked) == 2
    assert commands_in(evaluate(engine, *asked), cmd.Finish)


def test_evaluation_under_way_when_the_run_ends_makes_room_for_the_last() -> None:
    """That of the version before is closed with what it has; its devices are asked anew."""
    evaluation = {"at_end": True, "federated_every": 1, "window_s": 1000, "devices": 2}
    engine = Engine(some_settings(stop={"rounds": 2}, evaluation=evaluation))
    engine.check_in(*SIX)
    engine.report(*SIX[:4])
    engine.check_in(*SIX[:4])
    engine.write()
    slow = evaluators(engine)
    others = [device for device in SIX if device not in slow]
    engine.round(*others)
    engine.check_in(*others)
    assert [done.version for done in commands_in(engine.log, cmd.EvaluationDone)] == [1]
    assert {lease.record.base_version for lease in engine.machine.leases.open(Kind.EVALUATE)} == {2}


def test_operator_does_not_wait_for_a_last_evaluation() -> None:
    """Neither one that is under way nor one that was to come."""
    engine = ending()
    engine.check_in("d0")
    assert commands_in(engine(ev.StopAsked()), cmd.Finish) == [cmd.Finish(cause="operator")]
    assert not list(engine.machine.leases.open())


def test_run_paused_in_its_last_evaluation_goes_on_with_it() -> None:
    """The window stands still meanwhile, and nobody is asked."""
    engine = ending()
    engine.check_in("d0")
    engine(ev.PauseAsked())
    engine.check_in("d1")
    engine.pass_s(100.0)
    assert evaluators(engine) == ["d0"]
    engine(ev.ResumeAsked())
    engine.check_in("d1")
    assert evaluators(engine) == ["d0", "d1"]
    assert not commands_in(engine.pass_s(29.0), cmd.Finish)
    assert commands_in(engine.pass_s(1.0), cmd.Finish)
