"""What counts: once a lease, once a device and base version, for one version."""

from dataclasses import replace
from typing import Any

import pytest

from aggregator.leases import LeaseBook, LeaseState
from aggregator.tally import Tally
from shared.errors import InvalidState, Reason
from shared.messages import Outcome, WorkOrder
from tests.aggregator.builders import a_lease, a_verdict, lease_name, some_settings


class Books:
    """A tally over leases that are made as needed."""

    def __init__(self, **tables: Any) -> None:
        self.leases = LeaseBook()
        self.tally = Tally(some_settings(**tables), self.leases)
        self.n = 0

    def lease(self, device: str, base: int = 0) -> str:
        """Return the name of a new lease."""
        self.n += 1
        self.leases.issue(a_lease(self.n, device, base=base), now=0.0, expires_at=1.0)
        return lease_name(self.n)

    def accept(self, device: str, base: int = 0) -> None:
        """Count an update of a device."""
        name = self.lease(device, base)
        self.tally.accept(self.leases[name], a_verdict(name), 1, now=1.0)

    def surplus(self, device: str, base: int = 0) -> Reason | None:
        """Return why an update of a device would not count."""
        return self.tally.surplus(self.leases[self.lease(device, base)])


def test_accepted_update_counts_for_the_next_version() -> None:
    """With the seq after the last, and its lease accepted."""
    books = Books()
    books.accept("a")
    books.accept("b")
    first, second = books.tally.accepted()
    assert (first.seq, first.into, second.seq, books.tally.n_accepted) == (1, 1, 2, 2)
    assert books.leases[first.lease].state is LeaseState.ACCEPTED
    books.tally.check()


def test_lease_counts_once() -> None:
    """A second time is our own bug, and changes nothing."""
    books = Books()
    name = books.lease("a")
    books.tally.accept(books.leases[name], a_verdict(name), 1, now=1.0)
    with pytest.raises(InvalidState):
        books.tally.accept(books.leases[name], a_verdict(name), 1, now=1.0)
    assert (books.tally.n_accepted, books.tally.last_seq) == (1, 1)
    books.tally.check()


def test_device_counts_once_a_base_version() -> None:
    """Its second update from the same version is already counted, one from the next is not."""
    books = Books()
    books.accept("a")
    assert books.tally.has_counted("a")
    assert books.surplus("b") is None
    books.tally.close()
    books.tally.commit(1)
    assert not books.tally.has_counted("a")
    books.accept("a", base=1)
    assert books.surplus("a", base=1) is Reason.ALREADY_COUNTED
    assert books.tally.accepted()[0].into == 2


def test_update_after_the_close_is_surplus() -> None:
    """It would help the version after, for which it is one too old; from then on it is too stale."""
    books = Books()
    books.accept("a")
    assert books.tally.close() == 1
    assert books.tally.building == 2
    assert books.surplus("b") is Reason.GOAL_MET
    books.tally.commit(1)
    assert books.surplus("c", base=0) is Reason.TOO_STALE
    assert books.surplus("d", base=1) is None


def test_steps_of_fedprox_are_worth_what_its_lease_says() -> None:
    """τ = 2 at η = 0.5 and µ = 1: (1 − (1 − 0.5)²) / 0.5 = 1.5 plain steps, though the settings name a rate of 0.1."""
    books = Books(training={"algorithm": "fedprox", "mu": 1.0, "learning_rate": 0.1}, server={"normalize": "steps"})
    order = WorkOrder(seed=1, algorithm="fedprox", epochs=1, learning_rate=0.5, mu=1.0)
    record = replace(a_lease(), work=order.model_dump_json())
    books.leases.issue(record, now=0.0, expires_at=1.0)
    counted = books.tally.accept(books.leases[record.lease], replace(a_verdict(record.lease), n_steps=2), 1, now=1.0)
    assert counted.effective_steps == pytest.approx(1.5)
    assert counted.n_steps == 2


def test_close_of_nothing_has_no_last_seq() -> None:
    """0 when no update counts."""
    assert Books().tally.close() == 0


def test_commit_moves_what_counted_into_the_version() -> None:
    """Folded, no longer buffered; the sums hold."""
    books = Books()
    for device in "abc":
        books.accept(device)
    books.tally.close()
    books.tally.commit(1)
    assert (books.tally.version, books.tally.n_folded, books.tally.accepted()) == (1, 3, [])
    assert not books.tally.is_closed
    books.tally.check()


@pytest.mark.parametrize("version", [0, 1, 2])
def test_version_that_was_not_closed_cannot_be_committed(version: int) -> None:
    """Nor any but the next."""
    books = Books()
    books.accept("a")
    if version == 1:
        with pytest.raises(InvalidState):
            books.tally.commit(1)
    books.tally.close()
    if version != 1:
        with pytest.raises(InvalidState):
            books.tally.commit(version)
    assert books.tally.version == 0


def test_void_throws_away_and_lets_devices_report_anew() -> None:
    """Voided updates stay accounted for; their devices may help the same version again."""
    books = Books()
    books.accept("a")
    books.tally.close()
    assert books.tally.void() == 1
    assert (books.tally.n_voided, books.tally.n_accepted, books.tally.is_closed) == (1, 0, False)
    assert not books.tally.has_counted("a")
    books.accept("a")
    books.tally.check()


def test_one_update_is_voided_alone_and_opens_a_closed_version() -> None:
    """The others go on counting; its device may report again."""
    books = Books()
    books.accept("a")
    books.accept("b")
    lease = books.tally.accepted()[0].lease
    books.tally.close()
    books.tally.void_one(lease)
    assert (books.tally.n_voided, books.tally.n_accepted, books.tally.is_closed) == (1, 1, False)
    assert (books.tally.has_counted("a"), books.tally.has_counted("b")) == (False, True)
    books.tally.check()
    with pytest.raises(InvalidState, match=lease):
        books.tally.void_one(lease)


def test_only_bases_that_may_still_count_are_remembered() -> None:
    """A run of a thousand versions does not remember every update."""
    books = Books()
    for version in range(50):
        for device in "abc":
            books.accept(device, base=version)
        books.tally.close()
        books.tally.commit(version + 1)
    assert len(books.tally._bases) == 0


def test_contradiction_with_the_leases_is_found() -> None:
    """An accepted lease that no sum accounts for."""
    books = Books()
    books.leases.move(books.leases[books.lease("a")], LeaseState.ACCEPTED)
    assert books.tally.contradiction() == "1 accepted, 0 folded + 0 buffered + 0 voided"
    with pytest.raises(InvalidState):
        books.tally.check()


def test_update_of_a_device_that_seldom_finishes_counts_more() -> None:
    """By the inverse of its chance, as its leases so far tell; without the setting, everybody counts alike."""
    for reweight, is_more in (("finishing", True), ("off", False)):
        books = Books(server={"reweight": reweight})
        records = books.tally.records
        books.accept("steady")
        (update,) = books.tally.accepted()
        for number in range(20):
            records.asked(a_lease(100 + number, "always"))
            records.counted(replace(update, device="always"))
            records.asked(a_lease(200 + number, "seldom"))
            records.settled("seldom", Outcome.CANCELLED)
        books.accept("always")
        books.accept("seldom")
        _, always, seldom = (record.weight for record in books.tally.accepted())
        assert (seldom > 2 * always) is is_more
        assert is_more or seldom == always


def test_clipped_update_counts_with_the_factor_to_the_bound() -> None:
    """One that is longer than `clip_norm` is scaled down to it; its row says by how much."""
    books = Books(server={"clip_norm": 2.0})
    for device, norm in (("a", 8.0), ("b", 2.0), ("c", 0.0)):
        name = books.lease(device)
        books.tally.accept(books.leases[name], replace(a_verdict(name), norm=norm), 1, now=1.0)
    assert [record.clip_scale for record in books.tally.accepted()] == [0.25, 1.0, 1.0]
