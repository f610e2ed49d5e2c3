"""How bad a link is."""

from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker.link import PERFECT, Failures, Flow, LinkEventKind, LinkProfile, link_events

BAD = LinkProfile(
    outages=Failures(every_s=60.0, lasts_s=10.0), stalls=Failures(every_s=30.0, lasts_s=4.0), resets_every_s=45.0
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_s": -0.1},
        {"jitter_s": float("nan")},
        {"up_bytes_per_s": 0},
        {"outages": {"every_s": 0, "lasts_s": 1}},
        {"outages": {"every_s": 10}},
        {"resets_every_s": float("inf")},
        {"latency": 0.1},
    ],
)
def test_profile_refuses_what_makes_no_sense(wrong: dict[str, object]) -> None:
    """Negative, infinite, incomplete or unknown settings are refused."""
    with pytest.raises(ValidationError):
        LinkProfile.model_validate(wrong)


def test_perfect_link_has_no_events_and_takes_no_time() -> None:
    """The default is a link on which nothing ever happens."""
    assert list(link_events(PERFECT, 1)) == []
    assert not PERFECT.takes_time
    assert PERFECT.up(Random(1)).arrival(10**9, 5.0) == 5.0


def test_events_are_in_order_of_time_and_pair_up() -> None:
    """Down is followed by up, stall by resume, and time never runs back."""
    events = list(islice(link_events(BAD, 3), 3000))
    assert [e.at_s for e in events] == sorted(e.at_s for e in events)
    for start, end in [(LinkEventKind.DOWN, LinkEventKind.UP), (LinkEventKind.STALL, LinkEventKind.RESUME)]:
        kinds = [e.kind for e in events if e.kind in (start, end)]
        assert kinds[::2] == [start] * len(kinds[::2])
        assert kinds[1::2] == [end] * len(kinds[1::2])


def test_events_come_as_often_and_last_as_long_as_the_profile_says() -> None:
    """Over a long time the means are those of the profile."""
    events = [e for e in islice(link_events(BAD, 5), 30_000) if e.kind in (LinkEventKind.DOWN, LinkEventKind.UP)]
    down_s = [up.at_s - down.at_s for down, up in zip(events[::2], events[1::2], strict=False)]
    between_s = [down.at_s - up.at_s for up, down in zip(events[1::2], events[2::2], strict=False)]
    assert min(down_s) >= 5.0
    assert max(down_s) <= 15.0
    assert sum(down_s) / len(down_s) == pytest.approx(10.0, rel=0.05)
    assert sum(between_s) / len(between_s) == pytest.approx(60.0, rel=0.05)


def test_same_seed_same_events_and_one_way_of_failing_does_not_move_another() -> None:
    """The schedule is a function of profile and seed; taking the stalls away leaves the outages where they were."""
    assert list(islice(link_events(BAD, "x"), 100)) == list(islice(link_events(BAD, "x"), 100))
    assert list(islice(link_events(BAD, "x"), 100)) != list(islice(link_events(BAD, "y"), 100))
    calm = BAD.model_copy(update={"stalls": None, "resets_every_s": None})
    outages = [e for e in islice(link_events(BAD, "x"), 500) if e.kind in (LinkEventKind.DOWN, LinkEventKind.UP)]
    assert outages == list(islice(link_events(calm, "x"), len(outages)))


def test_bandwidth_queues_and_latency_adds() -> None:
    """By hand: 1000 bytes at 500 B/s leave in 2 s; with 0.1 s latency they arrive at 2.1, the next 500 at 3.1."""
    flow = Flow(500.0, 0.1, 0.0, Random(1))
    assert flow.arrival(1000, 0.0) == pytest.approx(2.1)
    assert flow.arrival(500, 0.5) == pytest.approx(3.1)
    assert flow.free_at == pytest.approx(3.0)
    assert flow.arrival(500, 10.0) == pytest.approx(11.1)


@given(seed=st.integers(), sends=st.lists(st.tuples(st.integers(0, 10_000), st.floats(0.0, 1.0)), max_size=50))
def test_arrivals_keep_the_order(seed: int, sends: list[tuple[int, float]]) -> None:
    """However large the jitter, what was sent first arrives first."""
    flow = Flow(10_000.0, 0.05, 5.0, Random(seed))
    now, last = 0.0, 0.0
    for n_bytes, wait_s in sends:
        now += wait_s
        arrives = flow.arrival(n_bytes, now)
        assert arrives >= max(last, now + 0.05)
        last = arrives
