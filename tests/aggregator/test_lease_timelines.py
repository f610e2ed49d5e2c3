"""Where the time of a lease went, as the aggregator saw it."""

from random import Random

import pytest

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator import records as rec
from aggregator.lease_timelines import MAX_REFUSED, LeaseTimelines
from aggregator.timeline_lines import PARTS, LeaseLine, PopulationLine, RefusalLine, StartLine
from shared.errors import Reason
from shared.messages import Kind, Outcome
from tests.aggregator.builders import lease_name

LEASE = lease_name(1)
UNIX_S = 1_000_000.0


def a_row(lease: str = LEASE, device: str = "d0", kind: Kind = Kind.TRAIN) -> rec.LeaseRecord:
    """Return the row of a lease of round 1."""
    return rec.LeaseRecord(
        lease=lease, device=device, round_id=1, kind=kind, base_version=0, codec="float32", max_bytes=100
    )


def an_outcome(outcome: Outcome, lease: str = LEASE) -> cmd.Journal:
    """Return the row that ends a lease."""
    return cmd.Journal(record=rec.OutcomeRecord(lease=lease, outcome=outcome))


@pytest.fixture
def timelines() -> LeaseTimelines:
    """Of a run in whose round 1 a lease was given at 10 s."""
    timelines = LeaseTimelines(UNIX_S)
    timelines.start([], 0, 0.0, is_between=True)
    timelines.decided([cmd.Journal(record=rec.RoundRecord(round_id=1, into=1)), cmd.Journal(record=a_row())], 10.0)
    timelines.take()
    return timelines


def says(phase: str) -> ev.Progressed:
    """Return a word of the device."""
    return ev.Progressed(device="d0", lease=LEASE, phase=phase)


def the_line(timelines: LeaseTimelines) -> LeaseLine:
    """Return the one line of a lease that waits."""
    (line,) = timelines.take()
    assert isinstance(line, LeaseLine)
    return line


def test_time_is_cut_at_each_word(timelines: LeaseTimelines) -> None:
    """Waiting 1 s, download 2, training 5, gone for 4 of it, upload 3."""
    timelines.heard(says("fetching"), 11.0)
    timelines.heard(says("training"), 13.0)
    timelines.heard(ev.DeviceOffline(device="d0"), 16.0)
    timelines.heard(ev.CheckedIn(device="d0", holds=frozenset({LEASE})), 20.0)
    timelines.heard(says("training"), 21.0)
    timelines.heard(ev.Offered(device="d0", lease=LEASE), 22.0)
    timelines.heard(ev.Progressed(device="d0", lease=LEASE), 23.0)  # a chunk
    timelines.decided([an_outcome(Outcome.REJECTED)], 25.0)
    line = the_line(timelines)
    assert dict(zip(PARTS, line.parts, strict=True)) == {
        "waiting": 1.0,
        "download": 2.0,
        "training": 5.0,
        "upload": 3.0,
        "offline": 4.0,
    }
    assert (line.given_at, line.seconds, line.offered_after_s) == (UNIX_S + 10.0, 15.0, 12.0)
    assert (line.last, line.is_online, line.state) == ("upload", True, "rejected")
    assert timelines.n_open == 0


def test_device_that_does_not_return_is_offline_to_the_end(timelines: LeaseTimelines) -> None:
    """The line says in what it was when it left."""
    timelines.heard(says("training"), 11.0)
    timelines.heard(ev.DeviceOffline(device="d0"), 12.0)
    timelines.heard(ev.DeviceOffline(device="d0"), 13.0)
    timelines.decided([an_outcome(Outcome.CANCELLED)], 40.0)
    line = the_line(timelines)
    assert (line.last, line.is_online) == ("training", False)
    assert line.parts == (1.0, 0.0, 1.0, 0.0, 28.0)


def test_update_after_the_goal_says_how_late_it_is(timelines: LeaseTimelines) -> None:
    """From CLOSE of the version that it could first have helped."""
    timelines.decided([cmd.Journal(record=rec.CloseRecord(into=1, last_seq=4))], 20.0)
    timelines.decided([an_outcome(Outcome.DISCARDED)], 23.25)
    assert the_line(timelines).after_close_s == 3.25


def test_lease_from_before_a_restart_is_marked() -> None:
    """What its device did before is not known."""
    timelines = LeaseTimelines(UNIX_S)
    timelines.start([a_row()], 1, 0.0, is_between=False)
    timelines.decided([an_outcome(Outcome.FAILED)], 2.0)
    start, line = timelines.take()
    assert start == StartLine(round_id=1, at=UNIX_S)
    assert isinstance(line, LeaseLine)
    assert (line.is_resumed, line.seconds) == (True, 2.0)


def test_evaluation_and_foreign_words_leave_no_trace(timelines: LeaseTimelines) -> None:
    """A round is explained by its training; a device cannot speak for another's lease."""
    other = lease_name(2)
    timelines.decided(
        [cmd.Journal(record=a_row(other, "d1", Kind.EVALUATE)), an_outcome(Outcome.ACCEPTED, other)], 11.0
    )
    timelines.heard(ev.Progressed(device="d1", lease=LEASE, phase="training"), 12.0)
    assert timelines.take() == []
    timelines.decided([an_outcome(Outcome.CANCELLED)], 13.0)
    assert the_line(timelines).parts == (3.0, 0.0, 0.0, 0.0, 0.0)


def test_refusal_is_a_line_when_it_begins_changes_and_ends(timelines: LeaseTimelines) -> None:
    """Not one a check-in: a battery that drains says something else each time."""

    def checks_in(refusal: Reason | None, detail: str = "", at: float = 11.0) -> None:
        timelines.heard(ev.CheckedIn(device="p0", refusal=refusal, detail=detail, device_class="old-phone"), at)

    checks_in(Reason.NOT_ELIGIBLE, "battery 0.18 under 0.3")
    checks_in(Reason.NOT_ELIGIBLE, "battery 0.17 under 0.3")
    checks_in(Reason.SPEC, "its task yields another model")
    timelines.decided([cmd.RoundEnded(round_id=1, version=1, outcome="committed", seconds=1.0)], 12.0)
    checks_in(None)
    checks_in(None)
    checks_in(Reason.DATA)
    timelines.heard(ev.DeviceOffline(device="p0"), 14.0)
    lines = timelines.take()
    assert all(isinstance(line, RefusalLine) and line.device_class == "old-phone" for line in lines)
    assert [(line.round_id, line.reason, line.detail) for line in lines if isinstance(line, RefusalLine)] == [
        (1, "not_eligible", "battery 0.18 under 0.3"),
        (1, "spec", "its task yields another model"),
        (1, None, ""),
        (2, "data", ""),
        (1, None, ""),
    ]


def test_made_up_names_do_not_fill_the_memory(timelines: LeaseTimelines) -> None:
    """Past the limit the oldest refusal is ended."""
    for i in range(MAX_REFUSED + 1):
        timelines.heard(ev.CheckedIn(device=f"x{i}", refusal=Reason.DATA), 11.0)
    lines = timelines.take()
    ended = [line.device for line in lines if isinstance(line, RefusalLine) and line.reason is None]
    assert ended == ["x0"]


def test_population_is_a_line_when_it_changes(timelines: LeaseTimelines) -> None:
    """Ten thousand devices that stay are said once."""
    for by_class in ({"pi-4": 2}, {"pi-4": 2}, {"pi-4": 3}):
        timelines.counted(by_class)
    assert [line.by_class for line in timelines.take() if isinstance(line, PopulationLine)] == [
        {"pi-4": 2},
        {"pi-4": 3},
    ]


@pytest.mark.parametrize("seed", range(200))
def test_parts_sum_to_the_life_whatever_is_heard(seed: int) -> None:
    """In any order, twice, or of a device that is away."""
    rng, timelines = Random(seed), LeaseTimelines(UNIX_S)
    timelines.decided([cmd.Journal(record=a_row())], 0.0)
    words: list[ev.Event] = [
        *(says(phase) for phase in ("fetching", "training", "reporting", "idle", "")),
        ev.Offered(device="d0", lease=LEASE),
        ev.DeviceOffline(device="d0"),
        ev.CheckedIn(device="d0", holds=frozenset({LEASE})),
        ev.CheckedIn(device="d0", refusal=Reason.NOT_ELIGIBLE),
    ]
    now = 0.0
    for _ in range(rng.randrange(30)):
        now += rng.expovariate(0.3)
        timelines.heard(rng.choice(words), now)
    timelines.decided([an_outcome(Outcome.CANCELLED)], now + 1.0)
    (line,) = [line for line in timelines.take() if isinstance(line, LeaseLine)]
    assert sum(line.parts) == pytest.approx(line.seconds, abs=0.005)
    assert line.seconds == pytest.approx(now + 1.0, abs=0.001)
    assert min(line.parts) >= 0.0
