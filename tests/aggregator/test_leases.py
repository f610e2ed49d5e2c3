"""The book of leases: each in exactly one state, along one table."""

import tracemalloc
from dataclasses import replace
from itertools import product
from random import Random

import pytest

from aggregator.leases import TRANSITIONS, LeaseBook, LeaseState
from shared.errors import InvalidState, Reason
from shared.messages import Kind, Outcome
from tests.aggregator.builders import a_lease, lease_name

FINAL = [state for state in LeaseState if state.is_final]


def a_book(*numbers: int) -> LeaseBook:
    """Return a book with these leases, each of a device of its own, until second 10 times its number."""
    book = LeaseBook()
    for number in numbers:
        book.issue(a_lease(number, f"d{number}"), now=0.0, expires_at=10.0 * number)
    return book


def test_issued_lease_is_outstanding_and_live() -> None:
    """Its device has it, the counts say so."""
    book = a_book(1)
    lease = book.live_of("d1")
    assert lease is book[lease_name(1)]
    assert book.n_outstanding(Kind.TRAIN) == 1
    assert book.n_outstanding(Kind.EVALUATE) == 0
    assert book.get("f" * 32) is None


def test_device_has_one_live_lease_and_a_name_is_given_once() -> None:
    """A second is our own bug; it raises and changes nothing."""
    book = a_book(1)
    for row in (a_lease(2, "d1"), a_lease(1, "d2")):
        with pytest.raises(InvalidState):
            book.issue(row, now=0.0, expires_at=1.0)
    book.check()
    assert book.n_outstanding(Kind.TRAIN) == 1


@pytest.mark.parametrize(("before", "after"), list(product(LeaseState, LeaseState)))
def test_lease_moves_along_the_table_only(before: LeaseState, after: LeaseState) -> None:
    """Anything else raises and leaves the lease where it was; what is final is final."""
    book = a_book(1)
    lease = book[lease_name(1)]
    if before is not LeaseState.OUTSTANDING:
        book.move(lease, before)
    if after in TRANSITIONS[before]:
        book.move(lease, after, reason=Reason.RATE, detail="x", staleness=2)
        assert (lease.state, lease.reason, lease.detail, lease.staleness) == (after, Reason.RATE, "x", 2)
    else:
        with pytest.raises(InvalidState):
            book.move(lease, after)
        assert lease.state is before
    book.check()


@pytest.mark.parametrize("state", FINAL)
def test_final_lease_has_its_outcome_and_frees_its_device(state: LeaseState) -> None:
    """The outcome carries the same name; the device may be asked again."""
    book = a_book(1)
    lease = book[lease_name(1)]
    with pytest.raises(InvalidState):
        _ = lease.outcome
    book.move(lease, state)
    assert lease.outcome == Outcome(state.value)
    assert book.live_of("d1") is None
    assert not list(book.open())


def test_expired_lease_is_open_and_not_live() -> None:
    """Its place is free, its device may have another, its result is still awaited."""
    book = a_book(1, 2, 3)
    assert book.next_expiry == 10.0
    assert [lease.record.device for lease in book.expire(20.0)] == ["d1", "d2"]
    assert book.live_of("d1") is None
    assert [lease.record.device for lease in book.open()] == ["d1", "d2", "d3"]
    assert book.next_expiry == 30.0
    assert book.expire(20.0) == []
    book.issue(a_lease(4, "d1"), now=20.0, expires_at=50.0)
    book.move(book[lease_name(1)], LeaseState.ACCEPTED)
    live = book.live_of("d1")
    assert live is not None
    assert live.record.lease == lease_name(4)
    book.check()


def test_pause_moves_what_is_open() -> None:
    """Nobody's time runs while the engine stands still."""
    book = a_book(1)
    book.moved(1000.0)
    assert book.next_expiry == 1010.0


def test_open_may_be_moved_while_it_is_walked() -> None:
    """All leases are concluded in one loop at the end of a run."""
    book = a_book(1, 2, 3)
    for lease in book.open():
        book.move(lease, LeaseState.DISCARDED)
    assert not list(book.open())


def test_summary_counts_how_often_leases_expired() -> None:
    """An expired lease that was accepted counts in both: the states sum to what was leased, but for that word."""
    book = a_book(1, 2)
    book.expire(10.0)
    book.move(book[lease_name(1)], LeaseState.ACCEPTED)
    assert book.counts()[LeaseState.EXPIRED] == 0
    summary = book.summary()
    assert (summary["expired"], summary["accepted"], summary["outstanding"]) == (1, 1, 1)


def test_kinds_are_counted_apart() -> None:
    """A lease to evaluate is no report of a round."""
    book = a_book(1)
    book.issue(a_lease(2, "d2", kind=Kind.EVALUATE), now=0.0, expires_at=5.0)
    book.expire(5.0)
    assert book.n_expirations == 0
    assert sum(book.counts().values()) == 1
    assert sum(book.counts(Kind.EVALUATE).values()) == 1
    assert [lease.record.device for lease in book.open(Kind.EVALUATE)] == ["d2"]


@pytest.mark.parametrize("seed", range(5))
def test_states_always_sum_to_what_was_leased(seed: int) -> None:
    """Two thousand random moves: every lease is in exactly one state, and the live ones are those outstanding."""
    rng, book, n = Random(seed), LeaseBook(), 0
    for step in range(2000):
        device = f"d{rng.randrange(10)}"
        if book.live_of(device) is None:
            n += 1
            book.issue(a_lease(n, device), now=float(step), expires_at=step + rng.uniform(0, 50))
        leases = list(book.open())
        if leases and rng.random() < 0.5:
            book.move(rng.choice(leases), rng.choice(FINAL))
        book.expire(float(step))
        assert sum(book.counts().values()) == n
    book.check()


def test_contradiction_is_found() -> None:
    """Whoever moves a lease past the book is caught by its check."""
    book = a_book(1)
    book[lease_name(1)].state = LeaseState.ACCEPTED
    with pytest.raises(InvalidState):
        book.check()


def test_final_lease_is_remembered_but_for_its_work() -> None:
    """By its name, with all that a receipt says; who asks gets a value of their own."""
    book = a_book()
    record = replace(a_lease(1, "d1"), work='{"seed": 1}')
    lease = book.issue(record, now=5.0, expires_at=10.0)
    book.move(lease, LeaseState.REJECTED, reason=Reason.NORM, detail="norm 7 is over 5")
    found = book[lease_name(1)]
    assert found.record == replace(record, work="")
    assert (found.state, found.reason, found.detail) == (LeaseState.REJECTED, Reason.NORM, "norm 7 is over 5")
    assert [each.record.lease for each in book] == [lease_name(1)]
    found.state = LeaseState.ACCEPTED
    book.check()
    assert book[lease_name(1)].state is LeaseState.REJECTED


def test_final_leases_of_a_long_run_take_little_memory() -> None:
    """At most 250 bytes each, whatever work they were for."""
    book, n = LeaseBook(), 4000
    devices = [f"device-{i}" for i in range(100)]

    def one(number: int) -> None:
        record = replace(
            a_lease(number, str(devices[number % 100])), round_id=number // 100, work="w" * 300 + str(number)
        )
        lease = book.issue(record, now=float(number), expires_at=number + 60.0)
        book.move(lease, LeaseState.ACCEPTED if number % 5 else LeaseState.CANCELLED)

    one(0)
    tracemalloc.start()
    try:
        for number in range(1, n):
            one(number)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / n < 250
