"""A run whose journal lost rows before its newest version: it goes on from that version, and nothing counts twice."""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from aggregator.__main__ import app
from aggregator.commands import SendReceipt
from aggregator.gaps import Bridge, bridge_over
from aggregator.journal import read_journal
from aggregator.journal_head import HeadFile
from aggregator.journal_rows import record_of
from aggregator.leases import LeaseState
from aggregator.model_store import ModelStore
from aggregator.records import AcceptRecord, CommitRecord, LeaseRecord, OutcomeRecord, Record
from aggregator.salvage import Salvage
from aggregator.standing import Standing
from aggregator.update_file import RowCopies
from shared.errors import ConfigError
from shared.messages import Kind, Outcome
from tests.aggregator.killed_run import RUN, KilledRun, a_killed_run, go_on, replayed

NEWEST = 4


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run of two lives, killed after version 4 with three updates accepted."""
    return a_killed_run(tmp_path_factory.mktemp("killed"))


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without matplotlib."""
    monkeypatch.setattr("aggregator.plot.find_spec", lambda name: None)


def repair(folder: Path, *options: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["repair", str(folder), *options])


def spoil(folder: Path, *seqs: int) -> None:
    """Change rows so that nothing brings them back, behind everybody's back."""
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        for seq in seqs:
            connection.execute("UPDATE journal SET body = '{}' WHERE seq = ?", (seq,))


def row_of_commit(killed: KilledRun) -> int:
    """Return the row of the COMMIT of the newest version."""
    return next(i for i, row in enumerate(killed.rows, 1) if isinstance(row, CommitRecord) and row.version == NEWEST)


def first_and_last_of_each_kind(killed: KilledRun) -> list[int]:
    """Return rows before the newest COMMIT, but for the first, which alone holds the settings of the first life."""
    found: dict[str, list[int]] = {}
    for seq, row in enumerate(killed.rows[: row_of_commit(killed) - 1], 1):
        found.setdefault(type(row).__name__, []).append(seq)
    return sorted({seq for seqs in found.values() for seq in (seqs[0], seqs[-1])})


@contextmanager
def salvaged(folder: Path) -> Iterator[Salvage]:
    """Salvage the journal of a run that lies in a folder of its own."""
    head_file = HeadFile(folder / "journal.head")
    head = head_file.read()
    head_file.close()
    salvage = Salvage(folder / "journal.sqlite", head, RowCopies(folder / "updates"))
    try:
        yield salvage
    finally:
        salvage.close()


def bridged(killed: KilledRun, folder: Path, *seqs: int) -> tuple[Bridge | None, Standing | None]:
    """Return how a copy of the run goes on without these rows, and where it stands then."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(killed.folder / RUN, folder)
    spoil(folder, *seqs)
    with salvaged(folder) as salvage:
        bridge = bridge_over(salvage)
        if bridge is None:
            return None, None
        rows = list(bridge.rows(salvage))
        assert [each.end.seq for each in rows] == list(range(1, len(rows) + 1))
        return bridge, Standing.of(lambda: iter(rows), folder)


def assert_counts_once(killed: KilledRun, standing: Standing) -> None:
    """Hold every lease that has an outcome against the books: it is final, or nobody knows it, so it cannot count."""
    machine = standing.machine
    machine.check()
    assert machine.version == NEWEST
    for row in killed.rows:
        if isinstance(row, AcceptRecord | OutcomeRecord):
            lease = machine.leases.get(row.lease)
            assert lease is None or lease.state.is_final
    waiting = [row.lease for row in killed.rows if isinstance(row, AcceptRecord) and row.into == NEWEST + 1]
    assert [record.lease for record in machine.tally.accepted()] == waiting


def test_any_row_before_the_newest_version_may_be_lost(tmp_path: Path, killed: KilledRun) -> None:
    """One at a time: what was decided about a lease is never open again, and what waits for the next version stays."""
    n_bridged = 0
    for seq in range(2, row_of_commit(killed)):
        bridge, standing = bridged(killed, tmp_path / "run", seq)
        if bridge is None:  # a copy behind an update file brought it back
            continue
        assert standing is not None
        assert (bridge.lost, bridge.version) == ((seq,), NEWEST)
        assert_counts_once(killed, standing)
        n_bridged += 1
    assert n_bridged > 20


def test_several_rows_may_be_lost(tmp_path: Path, killed: KilledRun) -> None:
    """Side by side or apart, whatever they were."""
    last = row_of_commit(killed) - 1
    for first in range(2, last - 3):
        seqs = (first, first + 1, first + 3, last - 1)
        bridge, standing = bridged(killed, tmp_path / "run", *seqs)
        assert bridge is not None
        assert standing is not None
        assert_counts_once(killed, standing)


def test_row_after_the_newest_version_is_not_bridged(tmp_path: Path, killed: KilledRun) -> None:
    """What it decided is still open: that is given up by name, or comes back from an update's file."""
    for seq in range(row_of_commit(killed), len(killed.rows) + 1):
        assert bridged(killed, tmp_path / "run", seq) == (None, None)


def test_lease_whose_acceptance_is_lost_is_never_taken_again(tmp_path: Path, killed: KilledRun) -> None:
    """Its device offers the update once more: it is told that the lease is cancelled, and nothing is uploaded."""
    seq, accept = next((i, row) for i, row in enumerate(killed.rows, 1) if isinstance(row, AcceptRecord))
    bridge, standing = bridged(killed, tmp_path / "run", seq)
    assert bridge is not None
    assert standing is not None
    assert accept.lease in {each.lease for each in bridge.cancelled}
    machine = standing.machine
    assert machine.leases[accept.lease].state is LeaseState.CANCELLED
    (told,) = machine.reports.offered(machine.leases[accept.lease], is_paused=False)
    assert isinstance(told, SendReceipt)
    assert told.outcome is Outcome.CANCELLED


def test_lease_row_of_an_accepted_update_is_written_again(tmp_path: Path, killed: KilledRun) -> None:
    """From the row that accepted it: its device is told `accepted`, as before."""
    accepted = {row.lease for row in killed.rows if isinstance(row, AcceptRecord)}
    seq, lease = next(
        (i, row) for i, row in enumerate(killed.rows, 1) if isinstance(row, LeaseRecord) and row.lease in accepted
    )
    _, standing = bridged(killed, tmp_path / "run", seq)
    assert standing is not None
    found = standing.machine.leases[lease.lease]
    assert (found.state, found.record.device, found.record.kind) == (LeaseState.ACCEPTED, lease.device, Kind.TRAIN)


def assert_goes_on(killed: KilledRun, folder: Path, seqs: Sequence[int]) -> list[Record]:
    """Lose rows, mend the run, and let it go on to its end; returns its rows then."""
    settings, run = killed.copy(folder), folder / RUN
    spoil(run, *seqs)
    with pytest.raises(ConfigError, match=rf"row {seqs[0]} (.|\n)*aggregator repair"):
        go_on(settings, folder)
    seen = repair(run)
    assert seen.exit_code == 1, seen.output
    for words in (f" {', '.join(map(str, seqs))}:", f"goes on from version {NEWEST}", f"repair {run} --from-newest"):
        assert words in seen.output
    done = repair(run, "--from-newest")
    assert done.exit_code == 0, done.output
    assert (next(run.glob("before-repair-*")) / "journal.sqlite").exists()
    assert repair(run).output == f"{run}: nothing is damaged\n"
    store = ModelStore(killed.folder / RUN / "versions")
    result = go_on(settings, folder)
    assert (result.version, result.cause) == (NEWEST + 1, "rounds")
    rows = list(read_journal(run / "journal.sqlite"))
    accepted = [row.lease for row in rows if isinstance(row, AcceptRecord)]
    assert len(set(accepted)) == len(accepted)
    known = [store.load(version) for version in store.versions()]
    model = replayed(settings, rows, folder / "scratch", known=known)
    assert load_file(result.model)["weights"].tobytes() == model
    return rows


def test_run_goes_on_from_its_newest_version(tmp_path: Path, killed: KilledRun) -> None:
    """After a row of each kind was lost: its model is what the journal yields from that version on."""
    n_done = 0
    for seq in first_and_last_of_each_kind(killed):
        if bridged(killed, tmp_path / "look", seq)[0] is None or seq == 1:
            continue
        rows = assert_goes_on(killed, tmp_path / str(seq), [seq])
        told = {row.lease for row in killed.rows if isinstance(row, AcceptRecord) and row.into == NEWEST + 1}
        assert told <= {row.lease for row in rows if isinstance(row, AcceptRecord) and row.into == NEWEST + 1}
        n_done += 1
    assert n_done >= 6


def test_rows_are_chained_anew_around_a_gap(tmp_path: Path, killed: KilledRun) -> None:
    """Every row that can be read stays as it is."""
    shutil.copytree(killed.folder / RUN, tmp_path / "run")
    lost = next(seq for seq, row in enumerate(killed.rows, 1) if isinstance(row, AcceptRecord))
    spoil(tmp_path / "run", lost)
    with salvaged(tmp_path / "run") as salvage:
        bridge = bridge_over(salvage)
        assert bridge is not None
        kept = [record_of(each.row) for each in partial(bridge.rows, salvage)()]
    assert [row for row in kept if row in killed.rows] == [
        row for seq, row in enumerate(killed.rows, 1) if seq != lost and seq not in bridge.dropped
    ]


def test_damaged_first_row_names_what_can_be_read(tmp_path: Path) -> None:
    """The other rows are counted, and the way on has all its arguments."""
    inline = a_killed_run(tmp_path / "inline", n_lives=1)
    inline.copy(tmp_path)
    run, n_rows = tmp_path / RUN, len(inline.rows)
    spoil(run, 1)
    result = repair(run)
    assert result.exit_code == 2
    for words in ("row 1 is not what was written", f"{n_rows - 1} of {n_rows} rows can be read", "--version 3 --out"):
        assert words in result.output
    assert "server.init_from" in result.output


def test_database_that_was_cut_short_still_yields_its_rows(tmp_path: Path, killed: KilledRun) -> None:
    """SQLite reads none of them; what is there is read all the same, and what is not is named."""
    killed.copy(tmp_path)
    run = tmp_path / RUN
    with closing(sqlite3.connect(run / "journal.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path, n_rows = run / "journal.sqlite", len(killed.rows)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 7 // 10)
    with salvaged(run) as salvage:
        lost = [seq for seq, row in salvage.around_gaps() if row is None]  # a page may be gone and a later one not
    assert 1 < lost[0] <= n_rows
    seen = repair(run)
    assert seen.exit_code == 1
    assert f"--discard-after {lost[0] - 1}\n" in seen.output


@pytest.mark.parametrize("options", [("--from-newest",), ("--from-newest", "--discard-after", "30")])
def test_option_that_does_not_fit_is_refused(tmp_path: Path, killed: KilledRun, options: tuple[str, ...]) -> None:
    """Of a whole run nothing is given up, and one way on is enough."""
    killed.copy(tmp_path)
    result = repair(tmp_path / RUN, *options)
    assert result.exit_code == 2
    assert "leave" in result.output
