"""Leases are promises to take an update: no more of them than the disk can bear."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import commands as cmd
from aggregator import events as ev
from aggregator.disk_budget import DiskBudget
from aggregator.leases import LeaseState
from aggregator.phases import Phase
from aggregator.records import LeaseRecord
from aggregator.round_machine import RoundMachine
from shared.errors import Reason
from shared.messages import Outcome
from tests.aggregator.builders import SIX, Engine, a_lease, a_machine, reporting, rows, some_settings

UPDATE = 10**6
"""Largest update of the machine that `builders.py` makes, in bytes."""


def leases_in(commands: list[cmd.Command]) -> int:
    """Return how many leases were given."""
    return sum(isinstance(row, LeaseRecord) for row in rows(commands))


def test_disk_that_was_not_looked_at_limits_nothing() -> None:
    """As in a machine without a folder."""
    assert a_machine().disk.n_leases(1000) == 1000
    assert not a_machine().disk.is_spent


@pytest.mark.parametrize(("for_updates", "n"), [(-1, 0), (0, 0), (UPDATE - 1, 0), (UPDATE, 1), (5 * UPDATE // 2, 2)])
def test_only_so_many_leases_are_given_as_updates_fit(for_updates: int, n: int) -> None:
    """Six are wanted; a disk for two and a half updates bears two."""
    engine = Engine()
    engine(ev.DiskSeen(for_updates=for_updates))
    commands = engine.check_in(*SIX)
    assert leases_in(commands) == n
    assert engine.machine.disk.is_spent


def test_leases_follow_as_soon_as_there_is_room() -> None:
    """Nobody has to ask again: the next look at the disk gives the rest."""
    engine = Engine()
    engine(ev.DiskSeen(for_updates=2 * UPDATE))
    engine.check_in(*SIX)
    assert leases_in(engine(ev.DiskSeen(for_updates=100 * UPDATE))) == 4


def test_expired_lease_still_counts_for_its_update_may_come() -> None:
    """Its place in the round is refilled only when the disk could take both."""
    engine = reporting(round={"lease_s": 5.0, "window_s": {"min": 100, "max": 100}})
    engine(ev.DiskSeen(for_updates=7 * UPDATE))
    engine.pass_s(6.0)
    assert {lease.state for lease in engine.machine.leases.open()} == {LeaseState.EXPIRED}
    assert leases_in(engine.check_in(*(f"e{i}" for i in range(6)))) == 1


def test_accepted_update_takes_what_it_has_not_what_it_might() -> None:
    """Its file counts until its version is committed; then nothing of it does."""
    engine = reporting()
    assert engine.machine.disk.promised == 6 * UPDATE
    engine.report("d0")
    assert engine.machine.disk.promised == 5 * UPDATE + 4
    engine.report("d1", "d2", "d3")
    engine.write()
    assert engine.machine.disk.promised == 0


def test_offer_under_a_lease_is_never_refused_for_disk() -> None:
    """The budget may be gone, eaten by others: what was promised is taken."""
    engine = reporting()
    engine(ev.DiskSeen(for_updates=-UPDATE))
    lease = engine.lease_of("d0")
    assert engine(ev.Offered(device="d0", lease=lease)) == [cmd.TakeUpload(lease=lease)]
    engine.report("d0")
    assert engine.machine.leases[lease].outcome is Outcome.ACCEPTED


def test_full_disk_pauses_and_says_busy() -> None:
    """The cause is named; offers are put off, not refused; it goes on when there is room."""
    engine = reporting()
    engine(ev.DiskLow())
    assert engine.is_in(Phase.PAUSED)
    (busy,) = engine(ev.Offered(device="d0", lease=engine.lease_of("d0")))
    assert isinstance(busy, cmd.SendReceipt)
    assert (busy.outcome, busy.reason) == (Outcome.BUSY, Reason.PAUSED)
    engine(ev.DiskFree())
    assert engine.is_in(Phase.REPORTING)


def test_version_for_which_there_is_no_space_is_made_when_there_is() -> None:
    """A full disk is no error that an operator has to clear: the same version is asked for again."""
    engine = reporting()
    engine.report(*SIX[:4])
    engine(ev.AggregationFailed(detail="no space left on device", is_disk_full=True))
    assert engine.is_in(Phase.PAUSED)
    assert cmd.Aggregate(into=1, round_id=1) in engine(ev.DiskFree())
    engine.write()
    assert engine.machine.version == 1


@given(
    st.integers(-(10**9), 10**9), st.integers(1, 10**7), st.integers(0, 10**7), st.integers(0, 20), st.integers(0, 50)
)
def test_what_is_given_always_fits(for_updates: int, max_bytes: int, row_bytes: int, n_open: int, wanted: int) -> None:
    """Promised and new together never exceed the budget, and one more than given would, unless no more was wanted."""
    machine: RoundMachine = a_machine(some_settings())
    for i in range(n_open):
        machine.leases.issue(a_lease(i + 1, f"d{i}"), now=0.0, expires_at=1.0)
    budget = DiskBudget(machine.leases, machine.tally, max_bytes, row_bytes)
    budget.for_updates = for_updates
    n = budget.n_leases(wanted)
    assert 0 <= n <= wanted
    each = max_bytes + row_bytes
    assert n == 0 or budget.promised + n * each <= for_updates
    assert n == wanted or budget.promised + (n + 1) * each > for_updates


def test_rule_over_a_cohort_has_room_for_a_row_of_each_update() -> None:
    """A median's float32 row beside each update, of open leases and of what was accepted; the mean's none."""
    rowless, engine = reporting(), reporting(server={"rule": "median"})
    assert rowless.machine.disk.row_bytes == rowless.machine.disk.rows_there == 0
    row = engine.machine.disk.row_bytes
    assert row > 0
    assert engine.machine.disk.promised == rowless.machine.disk.promised + row * len(SIX)
    engine.report(*SIX[:2])
    rowless.report(*SIX[:2])
    assert engine.machine.disk.rows_there == 2 * row
    assert engine.machine.disk.promised == rowless.machine.disk.promised + row * len(SIX)
