"""The engine, exhaustively: every event, about a lease in every state, in every phase."""

from collections.abc import Callable

import pytest

from aggregator import events as ev
from aggregator.leases import LeaseState
from aggregator.phases import PHASES, Phase
from aggregator.records import LeaseRecord
from shared.errors import InvalidState, Reason
from shared.messages import Kind
from tests.aggregator.builders import DIGEST, Engine, a_verdict, some_settings

DEVICES = [f"d{i}" for i in range(8)]


def reporting() -> Engine:
    """A second round with a lease in every state, a lease to evaluate, and a device that waits."""
    knobs = {
        "report_goal": 8,
        "quorum": 0.5,
        "over_selection": 1.0,
        "lease_s": 50,
        "window_s": {"min": 100, "max": 100},
    }
    evaluation = {"federated_every": 1, "devices": 1, "window_s": 1000}
    engine = Engine(some_settings(round=knobs, evaluation=evaluation))
    engine.check_in(*DEVICES)
    engine.report(*DEVICES[:4])
    late = engine.lease_of("d4")
    engine.check_in("d0")
    engine.pass_s(100.0)  # all that are out expire, the round closes with its quorum
    engine(ev.Offered(device="d4", lease=late))  # discarded
    engine.write()  # the others are cancelled, and d0 evaluates
    engine.check_in(*DEVICES[1:], "d8")
    accepted, failed, rejected, lost, *others = engine.leased()
    engine.report(accepted)
    engine.fail(failed)
    engine(ev.Refused(lease=engine.lease_of(rejected), reason=Reason.NOT_FINITE))
    for device in others:
        engine(ev.Progressed(device=device, lease=engine.lease_of(device)), after_s=5.0)
    engine.pass_s(50.0 - 5.0 * len(others))
    assert lost not in engine.leased()
    engine.check_in("waiting", failed)
    return engine


def waiting() -> Engine:
    """The same after its round was abandoned."""
    engine = reporting()
    while not engine.is_in(Phase.WAITING):
        engine.until_deadline()
    return engine


def aggregating() -> Engine:
    """The version is being made."""
    engine = Engine(some_settings())
    engine.check_in(*DEVICES)
    engine.report(*DEVICES[:4])
    assert engine.is_in(Phase.AGGREGATING)
    return engine


def publishing() -> Engine:
    """The version is journalled, and not yet on the broker."""
    engine = aggregating()
    engine(ev.VersionWritten(version=1, digest=DIGEST))
    return engine


def finished() -> Engine:
    """The run was stopped."""
    engine = reporting()
    engine(ev.StopAsked())
    return engine


def paused(situation: Callable[[], Engine]) -> Callable[[], Engine]:
    """A situation in which the operator and the disk stopped everything."""

    def build() -> Engine:
        engine = situation()
        engine(ev.PauseAsked(), ev.DiskLow())
        return engine

    return build


RUNNING: dict[str, Callable[[], Engine]] = {
    "waiting": waiting,
    "reporting": reporting,
    "aggregating": aggregating,
    "publishing": publishing,
}
SITUATIONS = {
    **RUNNING,
    **{f"paused-{name}": paused(situation) for name, situation in RUNNING.items()},
    "finished": finished,
}


def everything_that_may_happen(engine: Engine) -> list[ev.Event]:
    """Return every event that devices, disk, broker and operator can cause, about a lease in every state."""
    machine = engine.machine
    names = {(machine.leases[name].record.kind, state): name for name, state in _all_leases(engine)}.values()
    found: list[ev.Event] = [
        ev.CheckedIn(device="new"),
        ev.CheckedIn(device="new", refusal=Reason.SPEC, detail="another model"),
        ev.CheckedIn(device="waiting", missing=DIGEST),
        ev.CheckedIn(device="waiting", holds=frozenset({"f" * 32})),
        ev.DeviceOffline(device="never-seen"),
        ev.DeviceOffline(device="waiting", is_settled=True),
        ev.Progressed(device="new", lease="f" * 32),
        ev.Published(version=0),
        ev.Published(version=machine.version),
        ev.ModelGone(version=machine.version),
        ev.AggregationFailed(detail="not finite"),
        ev.BrokerLost(),
        ev.BrokerFound(),
        ev.DiskLow(),
        ev.DiskFree(),
        ev.PauseAsked(),
        ev.ResumeAsked(),
        ev.ResumeAsked(void=True),
        ev.StopAsked(),
        ev.DeadlinePassed(),
    ]
    for name in sorted(names):
        lease = machine.leases[name]
        device = lease.record.device
        found += [
            ev.CheckedIn(device=device),
            ev.CheckedIn(device=device, holds=frozenset({name})),
            ev.CheckedIn(device="thief", holds=frozenset({name})),
            ev.CheckedIn(device=device, refusal=Reason.NOT_ELIGIBLE, holds=frozenset({name})),
            ev.DeviceOffline(device=device),
            ev.Progressed(device=device, lease=name),
            ev.Refused(lease=name, reason=Reason.DIGEST),
            ev.Failed(device=device, lease=name, reason=Reason.TRAINING),
        ]
        if lease.record.kind is Kind.TRAIN:
            found += [ev.Offered(device=device, lease=name), a_verdict(name)]
        else:
            found.append(ev.Evaluated(device=device, lease=name, num_examples=3, metrics=(("loss", 1.0),)))
    if machine.tally.is_closed:
        found.append(ev.VersionWritten(version=machine.version + 1, digest=DIGEST))
    return found


def _all_leases(engine: Engine) -> list[tuple[str, LeaseState]]:
    names = [record.lease for record in engine.records if isinstance(record, LeaseRecord)]
    return [(name, engine.machine.leases[name].state) for name in names]


def test_situations_hold_a_lease_in_every_state() -> None:
    """What follows is about every state that a lease can be in, and about both kinds."""
    states = {state for _, state in _all_leases(reporting())}
    assert states == set(LeaseState)
    assert list(reporting().machine.leases.open(Kind.EVALUATE))


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_event_in_every_phase_leaves_the_books_in_order(name: str) -> None:
    """No event raises, the invariants hold, and no transition is outside of the table."""
    n_events = len(everything_that_may_happen(SITUATIONS[name]()))
    for i in range(n_events):
        engine = SITUATIONS[name]()
        before = engine.machine.phase
        engine(everything_that_may_happen(engine)[i])
        after = engine.machine.phase
        reached = {before} | PHASES[before] | {phase for between in PHASES[before] for phase in PHASES[between]}
        assert after in reached
        _check_deadline(engine)


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_event_may_come_twice(name: str) -> None:
    """The second time nothing is journalled about a lease: what was decided stands."""
    engine = SITUATIONS[name]()
    events = [event for event in everything_that_may_happen(engine) if not isinstance(event, ev.VersionWritten)]
    for event in events:
        if isinstance(event, ev.StopAsked | ev.PauseAsked | ev.DiskLow | ev.AggregationFailed | ev.CheckedIn):
            continue  # what they begin, others end
        engine = SITUATIONS[name]()
        engine(event)
        n_final = sum(state.is_final for _, state in _all_leases(engine))
        outcomes = {
            lease: engine.machine.leases[lease].outcome for lease, state in _all_leases(engine) if state.is_final
        }
        engine(event)
        assert sum(state.is_final for _, state in _all_leases(engine)) == n_final
        assert {lease: engine.machine.leases[lease].outcome for lease in outcomes} == outcomes


def _check_deadline(engine: Engine) -> None:
    """A deadline that has passed and was told is not asked for again: the shell would spin."""
    for _ in range(20):
        deadline = engine.machine.deadline
        if deadline is None or deadline > engine.now:
            return
        engine(ev.DeadlinePassed())
    raise AssertionError(f"{engine.machine.phase} asks for {deadline} at {engine.now} for ever")


def test_illegal_transition_raises_and_changes_nothing() -> None:
    """Whatever is not in the table is our own bug."""
    engine = finished()
    for phase in Phase:
        with pytest.raises(InvalidState):
            engine.machine._enter(phase)
        assert engine.is_in(Phase.FINISHED)
