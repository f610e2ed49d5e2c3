"""Who gets a lease, with which work, and how every check-in is answered."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from aggregator.commands import Assign, ComeBack, Command, RepublishModel, SendReceipt
from aggregator.events import AggregationFailed, CheckedIn, Failed, PauseAsked, ResumeAsked
from aggregator.phases import PauseCause, Phase
from aggregator.quotas import DAY_S
from aggregator.records import AcceptRecord, LeaseRecord
from aggregator.recovery import recover
from aggregator.round_machine import RoundMachine
from aggregator.selection import Candidate, Draw
from shared.errors import Reason
from shared.messages import Kind, Outcome, WorkOrder
from tests.aggregator.builders import (
    DIGEST,
    INTERVAL_S,
    SIX,
    UPDATE_BYTES,
    Engine,
    a_machine,
    commands_in,
    reporting,
    rows,
    some_settings,
)


def leased(commands: list[Command]) -> list[LeaseRecord]:
    """Return the rows that issued leases."""
    return [row for row in rows(commands) if isinstance(row, LeaseRecord)]


def test_every_check_in_is_answered() -> None:
    """By an Assignment, its live lease again, a final receipt, or the word when to come back."""
    engine = reporting()
    lease = engine.lease_of("d0")
    assert commands_in(engine(CheckedIn(device="d0")), Assign) == [Assign(lease=lease, device="d0", seconds_left=100.0)]
    for event in (
        CheckedIn(device="d0", holds=frozenset({lease})),
        CheckedIn(device="late"),
        CheckedIn(device="other", refusal=Reason.SPEC),
    ):
        (answer,) = commands_in(engine(event), ComeBack)
        assert answer.device == event.device


def test_live_lease_that_a_device_does_not_hold_is_assigned_again() -> None:
    """With what is left of it."""
    engine = reporting()
    commands = engine(CheckedIn(device="d0"), after_s=30.0)
    assert commands_in(commands, Assign) == [Assign(lease=engine.lease_of("d0"), device="d0", seconds_left=70.0)]
    assert not leased(commands)


def test_held_lease_that_is_dead_gets_its_final_receipt() -> None:
    """Each of them, before the device is given anything else."""
    engine = reporting()
    lease = engine.lease_of("d0")
    engine.fail("d0")
    commands = engine(CheckedIn(device="d0", holds=frozenset({lease})))
    (receipt,) = commands_in(commands, SendReceipt)
    assert (receipt.outcome, receipt.repeat) == (Outcome.FAILED, True)


def test_lease_of_another_device_or_none_of_ours_says_nothing() -> None:
    """A device that names them gets no receipt for them, and is treated as if it held nothing."""
    engine = Engine()
    engine.check_in(*SIX)
    foreign = engine.lease_of("d0")
    commands = engine(CheckedIn(device="thief", holds=frozenset({foreign, "f" * 32})))
    assert not commands_in(commands, SendReceipt)
    assert [each.reason for each in commands_in(commands, ComeBack)] == [Reason.NOT_DRAWN]
    assert engine.lease_of("d0") == foreign


def test_device_at_work_is_not_asked_to_evaluate() -> None:
    """It holds an expired lease: its hands are full."""
    engine = reporting(round={"lease_s": 10})
    lease = engine.lease_of("d0")
    engine.pass_s(10.0)
    engine(CheckedIn(device="d0", holds=frozenset({lease})))
    assert not engine.machine.invitations.idle(engine.now)


def test_missing_pieces_are_published_again() -> None:
    """The device names the model whose chunks do not come."""
    commands = Engine()(CheckedIn(device="d0", missing=DIGEST))
    assert commands_in(commands, RepublishModel) == [RepublishModel(digest=DIGEST)]


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        (Reason.NOT_DRAWN, INTERVAL_S),
        (Reason.NOT_ELIGIBLE, 15 * 60.0),
        (Reason.DATA, 15 * 60.0),
        (Reason.SPEC, 4 * 3600.0),
        (Reason.PROTOCOL, 4 * 3600.0),
        (Reason.CLONED_ID, 4 * 3600.0),
    ],
)
def test_come_back_is_sooner_the_sooner_it_may_help(reason: Reason, seconds: float) -> None:
    """The check-in interval when merely not drawn, 15 minutes for what passes, 4 hours for what does not; ± 20 %."""
    answer = Engine().machine.invitations.come_back("d0", reason, 0.0)
    assert (answer.retry_s.min, answer.retry_s.max) == pytest.approx((0.8 * seconds, 1.2 * seconds))


def test_check_in_interval_grows_with_the_population() -> None:
    """About ten check-ins a second: 600 devices check in once a minute, few devices as set."""
    engine = Engine(some_settings(transfer={"check_in_interval_s": 30}, round={"report_goal": 10_000}))
    engine.check_in(*(f"d{i}" for i in range(10)))
    assert engine.machine.invitations.check_in_interval_s == 30.0
    for _ in range(2):
        engine.check_in(*(f"d{i}" for i in range(600)))
        engine.now += 30.0
    assert engine.machine.invitations.check_in_interval_s == 60.0


def test_names_that_were_heard_once_do_not_stretch_the_interval() -> None:
    """Whoever makes up names does not silence the fleet."""
    engine = Engine(some_settings(transfer={"check_in_interval_s": 30}, round={"report_goal": 10_000}))
    engine(*(CheckedIn(device=f"made-up-{i}", refusal=Reason.DATA) for i in range(2000)))
    assert engine.machine.invitations.check_in_interval_s == 30.0


def test_work_is_a_function_of_seed_round_and_device() -> None:
    """The same after a restart; another for every device and round."""
    orders = [
        [WorkOrder.model_validate_json(row.work).seed for row in leased(Engine().check_in(*SIX))] for _ in range(2)
    ]
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 6


def test_work_says_what_the_settings_say() -> None:
    """Epochs default to one; the learning rate of version 2 is decayed twice; the options go along."""
    engine = Engine(
        some_settings(
            training={
                "learning_rate": 0.4,
                "schedule": {"name": "exponential", "factor": 0.5},
                "options": {"dropout": 0.1},
            }
        )
    )
    engine.round(*SIX)
    engine.round(*SIX)
    (row, *_) = leased(engine.check_in(*SIX))
    order = WorkOrder.model_validate_json(row.work)
    assert (row.base_version, order.learning_rate, order.epochs, order.max_steps) == (2, 0.1, 1, None)
    assert order.options == {"dropout": 0.1}
    assert json.loads(row.work)["algorithm"] == "fedavg"


@pytest.mark.parametrize(
    ("training", "epochs", "max_steps"),
    [({"algorithm": "fedsgd"}, None, None), ({"max_steps": 7}, None, 7), ({"epochs": 3, "batch_size": 8}, 3, None)],
)
def test_work_has_one_measure(training: dict[str, object], epochs: int | None, max_steps: int | None) -> None:
    """Epochs or steps; FedSGD is one full pass and has neither."""
    (row, *_) = leased(Engine(some_settings(training=training)).check_in(*SIX))
    order = WorkOrder.model_validate_json(row.work)
    assert (order.epochs, order.max_steps) == (epochs, max_steps)


def test_lease_names_are_unlike_those_of_another_start() -> None:
    """32 hex digits; two starts of the same run never give the same name."""
    engine = Engine()
    names = {row.lease for row in leased(engine.check_in(*SIX))}
    other = Engine()
    other.machine.invitations._lease_prefix = "life-2"
    names |= {row.lease for row in leased(other.check_in(*SIX))}
    assert len(names) == 12
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)


def test_evaluation_has_no_work() -> None:
    """Its lease says so, and names the committed version."""
    engine = Engine(some_settings(evaluation={"federated_every": 1}))
    engine.check_in(*SIX)
    engine.report(*SIX[:4])
    engine.check_in("d0")
    rows_ = leased(engine.write())
    assert [(row.kind, row.work, row.base_version) for row in rows_] == [(Kind.EVALUATE, "", 1)]


class Moody:
    """A rule of a user's own that can be told to fail."""

    is_broken = False

    def draw(self, candidates: Sequence[Candidate], size: int, draw: Draw) -> list[str]:
        if self.is_broken:
            raise ValueError("no mood")
        return sorted((each.device for each in candidates), reverse=True)[:size]


def test_rule_of_the_users_own_decides_who_is_asked() -> None:
    """It is given all who wait; over-selection asks it for six."""
    machine = RoundMachine(
        some_settings(selection={"rule": "mine:rule"}), update_bytes=UPDATE_BYTES, lease_prefix="life", rule=Moody()
    )
    engine = Engine(machine=machine)
    engine(PauseAsked())
    engine.check_in(*(f"d{i}" for i in range(9)))
    engine(ResumeAsked())
    assert engine.leased() == [f"d{i}" for i in range(3, 9)]


def test_rule_that_fails_pauses_the_run_until_it_is_mended() -> None:
    """Nobody is drawn in its place, and nothing is committed meanwhile; `resume` asks it again."""
    rule = Moody()
    rule.is_broken = True
    machine = RoundMachine(
        some_settings(selection={"rule": "mine:rule"}), update_bytes=UPDATE_BYTES, lease_prefix="life", rule=rule
    )
    engine = Engine(machine=machine)
    engine.check_in(*SIX)
    assert engine.is_in(Phase.PAUSED)
    assert "draw() failed with ValueError: no mood" in machine.pausing.causes[PauseCause.ERROR]
    engine(ResumeAsked())
    assert engine.is_in(Phase.PAUSED)
    rule.is_broken = False
    engine(ResumeAsked())
    engine.report(*engine.leased()[:3])
    rule.is_broken = True
    for device in engine.leased()[:2]:  # a place falls free, and the quorum is there
        engine.fail(device)
    engine.check_in("late")
    assert engine.is_in(Phase.PAUSED)
    assert machine.version == 0


def test_what_is_known_of_devices_survives_a_restart() -> None:
    """Rebuilt from the journal, whatever became of the leases."""
    engine = reporting()
    engine.report("d0", "d1")
    engine.fail("d2")
    engine.pass_s(1000.0)
    engine.check_in("d3")
    machine = a_machine()
    recover(machine, engine.records, None, 0.0, 0.0)
    before, after = engine.machine.tally.records, machine.tally.records
    assert after.n_asked == before.n_asked > 6
    assert [after.candidate(each, "") for each in SIX] == [before.candidate(each, "") for each in SIX]
    assert before.candidate("d0", "").chance > before.candidate("d2", "").chance


def test_separated_devices_are_not_asked_and_told_to_come_back_later() -> None:
    """Those of round 1 may be asked in round 3 again; a round of others lies between, however long it takes to come."""
    knobs: dict[str, Any] = {
        "round": {"report_goal": 2, "over_selection": 1.0, "quorum": 1.0},
        "selection": {"min_separation": 2},
    }
    engine = Engine(some_settings(**knobs))
    engine.round("d0", "d1")
    commands = engine.check_in("d0", "d1")
    assert engine.is_in(Phase.WAITING)
    assert [each.reason for each in commands_in(commands, ComeBack)] == [Reason.QUOTA] * 2
    assert engine.machine.invitations.n_barred(engine.now) == 2
    engine.check_in("d2", "d3")
    assert engine.leased() == ["d2", "d3"]
    engine.report("d2", "d3")
    engine.write()
    engine.check_in("d2", "d3", "d0", "d1")
    assert engine.leased() == ["d0", "d1"]


def test_day_quota_bars_until_its_day_is_over_and_no_check_in_is_asked_for_before() -> None:
    """One lease a day: the device is told to come back after 24 hours, and gets work then."""
    knobs: dict[str, Any] = {"round": {"report_goal": 1, "over_selection": 1.0}, "selection": {"max_per_day": 1}}
    engine = Engine(some_settings(**knobs))
    engine.round("d0")
    engine.now += 100.0
    (answer,) = commands_in(engine.check_in("d0"), ComeBack)
    assert answer.reason is Reason.QUOTA
    assert answer.retry_s.min == DAY_S - 100.0
    engine.now += answer.retry_s.min
    engine.check_in("d0")
    assert engine.leased() == ["d0"]


def test_quotas_survive_a_restart() -> None:
    """They are read from LEASE rows; the day is that of the wall."""
    knobs: dict[str, Any] = {
        "round": {"report_goal": 1, "over_selection": 1.0},
        "selection": {"max_per_day": 1, "min_separation": 2},
    }
    settings = some_settings(**knobs)
    engine = Engine(settings)
    engine.machine.invitations.wall_zero_s = 1_800_000_000.0
    engine.round("d0")
    machine = a_machine(settings)
    recover(machine, engine.records, None, 50.0, 1_800_000_000.0 + 3600.0)
    again = Engine(settings, machine)
    again.now = 50.0
    (answer,) = commands_in(again.check_in("d0"), ComeBack)
    assert (answer.reason, answer.retry_s.min) == (Reason.QUOTA, DAY_S - 3600.0)


FEDDYN: dict[str, Any] = {"algorithm": "feddyn", "alpha": 0.5}


def states_in(engine: Engine) -> dict[str, str | None]:
    """Return from whose state each device's newest work goes on."""
    orders = {row.device: WorkOrder.model_validate_json(row.work) for row in leased(engine.log)}
    assert all(order.alpha == 0.5 for order in orders.values())
    return {device: order.state_of for device, order in orders.items()}


def restarted_as(engine: Engine) -> Engine:
    """Return an engine that has read the other's journal."""
    settings = some_settings(training=FEDDYN)
    machine = a_machine(settings, prefix="life-2")
    recover(machine, engine.records, None, engine.now, 0.0)
    return Engine(settings, machine)


@pytest.mark.parametrize("restarts", [False, True])
def test_work_goes_on_from_the_newest_update_that_counts(restarts: bool) -> None:
    """Before and after a restart; whoever never counted begins from nothing."""
    engine = reporting(training=FEDDYN)
    first = {device: engine.lease_of(device) for device in SIX}
    engine.round(*SIX)
    if restarts:
        engine = restarted_as(engine)
    engine.check_in(*SIX)
    counted = SIX[:4]
    assert states_in(engine) == {device: first[device] if device in counted else None for device in engine.leased()}
    begun = [row.begins for row in engine.records if isinstance(row, AcceptRecord)]
    assert begun == ([] if restarts else [True] * 4)


@pytest.mark.parametrize("restarts", [False, True])
def test_work_after_a_voided_update_goes_on_from_the_one_before(restarts: bool) -> None:
    """The devices were told accepted: the assignment says better."""
    engine = reporting(training=FEDDYN)
    first = {device: engine.lease_of(device) for device in SIX}
    engine.round(*SIX)
    engine.check_in(*SIX)
    engine.report(*engine.leased()[:4])
    engine.log.clear()
    engine(AggregationFailed(detail="not finite"), ResumeAsked(void=True))
    if restarts:
        engine = restarted_as(engine)
    engine.check_in(*SIX)
    engine.pass_s(10.0)  # the back-off of an abandoned round
    given = states_in(engine)
    assert set(SIX[:4]) & given.keys()
    assert given == {device: first[device] if device in SIX[:4] else None for device in given}


@pytest.mark.parametrize("restarts", [False, True])
def test_device_that_has_lost_its_state_begins_anew(restarts: bool) -> None:
    """It says so by failing the lease; the next one asks for nothing that it has not."""
    engine = reporting(training=FEDDYN)
    engine.round(*SIX)
    engine.check_in(*SIX)
    loser = next(device for device in engine.leased() if device in SIX[:4])
    engine(Failed(device=loser, lease=engine.lease_of(loser), reason=Reason.STATE))
    if restarts:
        engine = restarted_as(engine)
    engine.check_in(*SIX)
    engine.round(*[device for device in SIX if device != loser])
    engine.log.clear()
    engine.check_in(*SIX)
    assert states_in(engine)[loser] is None


def test_other_algorithms_name_no_state() -> None:
    """Nothing is kept, nothing is asked for."""
    engine = reporting()
    engine.round(*SIX)
    engine.check_in(*SIX)
    assert all('"state_of"' not in row.work and '"alpha"' not in row.work for row in leased(engine.log))
