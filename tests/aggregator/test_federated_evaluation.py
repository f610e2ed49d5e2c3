"""One evaluation on devices: who was asked, what came, when it is over."""

from aggregator.commands import EvaluationDone
from aggregator.events import CheckedIn, Evaluated
from aggregator.federated_evaluation import FederatedEvaluation
from aggregator.round_machine import RoundMachine
from shared.messages import Kind
from tests.aggregator.builders import a_machine, some_settings


def a_fleet(n_devices: int, **evaluation: object) -> RoundMachine:
    """Return an engine at version 2 with devices that wait; it is its evaluation that is tested."""
    ours = {"federated_every": 2, "devices": 3, "window_s": 60}
    machine = a_machine(some_settings(round={"report_goal": 100}, evaluation={**ours, **evaluation}))
    machine.tally.version = 2
    for i in range(n_devices):
        machine.handle(CheckedIn(device=f"d{i}"), 0.0)
    return machine


def a_report(evaluation: FederatedEvaluation, machine: RoundMachine, device: str) -> None:
    """Let a device report."""
    lease = machine.leases.live_of(device)
    assert lease is not None
    name = lease.record.lease
    evaluation.report(Evaluated(device=device, lease=name, num_examples=5, metrics=(("loss", 1.0),)))


def asked(machine: RoundMachine) -> list[str]:
    """Return who was asked."""
    return sorted(lease.record.device for lease in machine.leases.open(Kind.EVALUATE))


def test_every_second_version_asks_so_many_devices() -> None:
    """Three of five, for version 2 and not for version 1; never when it is switched off."""
    machine = a_fleet(5)
    assert machine.evaluation.begin(1, 1, 0.0) == []
    assert len(machine.evaluation.begin(2, 2, 0.0)) == 3
    assert len(asked(machine)) == 3
    assert machine.evaluation.closes_at == 60.0
    never = a_fleet(5, federated_every=0)
    assert never.evaluation.begin(2, 2, 0.0) == []


def test_nobody_there_is_no_evaluation() -> None:
    """There is no window, and nothing to end."""
    machine = a_fleet(0)
    assert machine.evaluation.begin(2, 2, 0.0) == []
    assert machine.evaluation.closes_at is None
    assert not machine.evaluation.is_complete
    assert machine.evaluation.end() == []


def test_one_at_a_time() -> None:
    """A version that comes while the one before is still evaluated is not."""
    machine = a_fleet(9)
    machine.evaluation.begin(2, 2, 0.0)
    assert machine.evaluation.begin(4, 4, 1.0) == []


def test_evaluation_is_complete_when_all_have_reported_or_will_not() -> None:
    """Reports are handed over by device; a lease that is settled is not waited for."""
    machine = a_fleet(5)
    evaluation = machine.evaluation
    evaluation.begin(2, 2, 0.0)
    first, second, third = asked(machine)
    a_report(evaluation, machine, second)
    a_report(evaluation, machine, first)
    a_report(evaluation, machine, first)
    was_complete = evaluation.is_complete
    lease = machine.leases.live_of(third)
    assert lease is not None
    evaluation.settled(lease.record.lease)
    assert (was_complete, evaluation.is_complete) == (False, True)
    metrics = (("loss", 1.0),)
    assert evaluation.end() == [
        EvaluationDone(version=2, n_asked=3, reports=((first, 5, metrics), (second, 5, metrics)))
    ]
    assert evaluation.end() == []


def test_report_of_an_evaluation_that_is_over_is_not_counted_for_the_next() -> None:
    """Its lease belongs to another version."""
    machine = a_fleet(9)
    evaluation = machine.evaluation
    evaluation.begin(2, 2, 0.0)
    late = asked(machine)[0]
    evaluation.end()
    evaluation.begin(4, 4, 70.0)
    a_report(evaluation, machine, late)
    (done,) = evaluation.end()
    assert isinstance(done, EvaluationDone)
    assert done.reports == ()


def test_report_under_a_lease_that_had_expired_counts_while_the_others_are_waited_for() -> None:
    """As after a restart, where nobody knows any more that it had."""
    machine = a_fleet(5)
    evaluation = machine.evaluation
    evaluation.begin(2, 2, 0.0)
    late = asked(machine)[0]
    lease = machine.leases.live_of(late)
    assert lease is not None
    evaluation.settled(lease.record.lease)
    a_report(evaluation, machine, late)
    (done,) = evaluation.end()
    assert isinstance(done, EvaluationDone)
    assert [device for device, _, _ in done.reports] == [late]


def test_pause_moves_the_window() -> None:
    """Nobody evaluates against a clock that stands still."""
    machine = a_fleet(5)
    machine.evaluation.moved(10.0)
    machine.evaluation.begin(2, 2, 0.0)
    machine.evaluation.moved(100.0)
    assert machine.evaluation.closes_at == 160.0
