"""What must hold of an engine and of its journal, whatever has happened to it."""

from collections import Counter
from typing import Any

from aggregator import records as rec
from aggregator.config import Settings
from aggregator.leases import LeaseState
from aggregator.phases import Phase
from aggregator.round_machine import RoundMachine

__all__ = ["books", "check_candidates", "check_journal"]


def books(machine: RoundMachine) -> Any:
    """Return what a restart has to find again; that a lease has expired is forgotten on purpose."""
    tally, stopping = machine.tally, machine.stopping
    open_states = (LeaseState.OUTSTANDING, LeaseState.EXPIRED)
    return (
        (tally.version, tally.is_closed, tally.last_seq, tally.n_folded, tally.n_voided, tally.accepted()),
        (stopping.best, stopping.best_version, stopping.n_since_best, stopping.cause, stopping.metrics),
        machine.round_id,
        {
            lease.record.lease: None
            if lease.state in open_states
            else (lease.state, lease.reason, lease.detail, lease.staleness)
            for lease in machine.leases
        },
        {base: frozenset(devices) for base, devices in tally._bases.items() if devices},
    )


def check_journal(rows: list[rec.Record], settings: Settings) -> None:
    """Nothing counts twice, quorum and order are kept, every round ends once."""
    accepted: dict[int, list[rec.AcceptRecord]] = {}
    leases, bases, seqs = Counter[str](), Counter[tuple[str, int]](), []
    decided, issued = Counter[str](), Counter[str]()
    closed: int | None = None
    version, round_id = 0, 0
    is_open = False
    for row in rows:
        match row:
            case rec.LeaseRecord():
                issued[row.lease] += 1
                assert row.base_version == version
            case rec.OutcomeRecord():
                assert row.lease in issued
                decided[row.lease] += 1
            case rec.AcceptRecord():
                assert row.into == version + (2 if closed else 1)
                assert row.into - 1 - row.base_version <= settings.round.max_staleness
                decided[row.lease] += 1
                leases[row.lease] += 1
                bases[row.device, row.base_version] += 1
                seqs.append(row.seq)
                accepted.setdefault(row.into, []).append(row)
            case rec.RoundRecord():
                assert not is_open
                assert row.round_id == round_id + 1
                round_id, is_open = row.round_id, True
            case rec.CloseRecord():
                assert closed is None
                assert len(accepted[row.into]) >= settings.round.quorum_count
                assert row.last_seq == accepted[row.into][-1].seq
                closed = row.into
            case rec.CommitRecord():
                assert row.version == closed == version + 1
                version, closed, is_open = row.version, None, False
            case rec.AbandonRecord():
                is_open = False
            case rec.VoidRecord():
                for update in accepted.pop(row.into, []):
                    bases[update.device, update.base_version] -= 1
                closed, is_open = None, False  # ABANDON follows, unless the aggregator dies in between
            case _:
                pass
    assert seqs == list(range(1, len(seqs) + 1))
    for counter in (leases, bases, decided, issued):
        assert max(counter.values(), default=0) <= 1


def check_candidates(machine: RoundMachine, now: float) -> None:
    """Whoever is counted among those who may be asked may be asked, and nobody else."""
    population = machine.population
    if machine.phase not in (Phase.WAITING, Phase.REPORTING) and not machine.tally.is_closed:
        return  # nobody is asked
    upcoming = machine.round_id + (machine.phase is Phase.WAITING)
    expected = {
        device
        for device in population.waiting(now, machine.invitations.check_in_interval_s)
        if machine.leases.live_of(device) is None
        and not machine.tally.has_counted(device)
        and population._barred.get(device) != upcoming
    }
    if machine.phase not in (Phase.PAUSED, Phase.FINISHED):
        assert set(machine.invitations.eligible(now)) == expected
        assert len(machine.invitations.eligible(now)) == len(expected)
