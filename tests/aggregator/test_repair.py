"""`aggregator repair`: every sort of damage, mended as far as it can be; then the run goes on to its end.

After each, the final model is, to the bit, what the rows of the journal yield from version 0 on, and no lease counts
twice.
"""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from aggregator.__main__ import app
from aggregator.config import Settings
from aggregator.journal import read_journal
from aggregator.journal_file import JournalFile
from aggregator.journal_head import HeadFile
from aggregator.journal_scan import journalled
from aggregator.model_store import ModelStore
from aggregator.records import AcceptRecord, Record
from aggregator.run_folder import RunFolder
from aggregator.update_file import RowCopies
from shared.errors import ConfigError
from tests.aggregator.killed_run import RUN, KilledRun, a_killed_run, go_on, replayed
from tests.aggregator.run_damage import change_row, flip, flip_update, lose_rows, spoil_settings_in_log, sql

ROOT = Path(__file__).parents[2]
LAST = 3
"""Accepted updates at the journal's end that lie in files."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run of two lives, killed."""
    return a_killed_run(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def killed_inline(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run of one life whose updates all came inline, killed after version 3."""
    return a_killed_run(tmp_path_factory.mktemp("inline"), n_lives=1)


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without matplotlib: a picture a run is most of what these tests would take."""
    monkeypatch.setattr("aggregator.plot.find_spec", lambda name: None)


def repair(folder: Path, *options: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["repair", str(folder), *options])


def content(folder: Path) -> dict[str, bytes]:
    """Return what lies in a run's folder, but for who holds it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", "journal.sqlite-shm")
    }


def version_file(folder: Path, version: int) -> Path:
    """Return where a version lies."""
    return folder / "versions" / f"{version:08d}.safetensors"


def damage_index(folder: Path, _: KilledRun) -> None:
    """Damage the database so that every row is still there."""
    path, rng = folder / "journal.sqlite", random.Random(1)
    sql(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    while True:
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        journal = JournalFile(path, RowCopies(folder / "updates"))
        try:
            journal.open()
        except ConfigError as error:
            if "database is damaged" in error.what:
                return
        journal.close()


def update_of(folder: Path, killed: KilledRun, device: str) -> Path:
    """Return the file of the update of a device that is accepted and in no version."""
    lease = next(row.lease for row in reversed(killed.rows) if isinstance(row, AcceptRecord) and row.device == device)
    return folder / "updates" / f"{lease}.update"


@dataclass(frozen=True)
class Case:
    """A damage and what becomes of it.

    Args:
        damage: done to the folder of a run.
        said: words of the report.
        options: that it asks for; none: nothing is given up.
    """

    damage: Callable[[Path, KilledRun], None]
    said: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def _last(killed: KilledRun) -> int:
    return len(killed.rows)


CASES = {
    "file_rows_lost": Case(lambda f, k: lose_rows(_last(k) - 1)(f, k), ("missing rows: 55, 56",)),
    "file_row_changed": Case(lambda f, k: change_row(_last(k) - 1, "body", "{}")(f, k), ("missing rows: 55",)),
    "checksum_changed": Case(change_row(20, "checksum", bytes(32)), ("missing rows: 20",)),
    "index_damaged": Case(damage_index, ("database is damaged", "written anew with its 56 rows")),
    "head_gone": Case(lambda f, _: (f / "journal.head").unlink(), ("nobody knows",), ("--discard-after", "56")),
    "row_changed": Case(
        change_row(47, "body", '{"round_id": 7, "into": 5}'),
        ("row 47 is not what was written", "admitted again at the next start", "of d0 for version 5"),
        ("--discard-after", "46"),
    ),
    "lease_rows_lost": Case(
        lose_rows(52),
        ("rows 52 to 56 are missing", "admitted again at the next start", "of d1 for version 5"),
        ("--discard-after", "51"),
    ),
    "log_gone": Case(
        lambda f, _: (f / "journal.sqlite-wal").unlink(),
        ("are missing", "the accepted update of d1 for version 5", "cannot be read: 34, 35"),
        ("--discard-after", "33"),
    ),
    "update_gone": Case(lambda f, k: update_of(f, k, "d1").unlink(), ("the update of d1", "is missing"), ("--void",)),
    "update_changed": Case(
        lambda f, k: flip_update(update_of(f, k, "d2")), ("the update of d2", "sha-256"), ("--void",)
    ),
    "version_changed": Case(
        lambda f, _: flip(version_file(f, 4)),
        ("goes back to version 3", "its file is missing", "leases of d0: 1", "outcomes of leases of d3: 1"),
        ("--discard-after", "42", "--void"),
    ),
    "old_version_changed": Case(lambda f, _: flip(version_file(f, 2)), ("is set aside",)),
}


@pytest.mark.parametrize("name", CASES)
def test_damaged_run_is_repaired_and_goes_on_to_its_end(tmp_path: Path, killed: KilledRun, name: str) -> None:
    """First it is refused by name; then nothing is given up that was not said; then it ends as its journal says."""
    case, settings = CASES[name], killed.copy(tmp_path)
    folder = tmp_path / RUN
    case.damage(folder, killed)
    if name != "file_rows_lost":  # these come back by themselves
        with pytest.raises(ConfigError, match="aggregator repair"):
            go_on(settings, tmp_path)
    before = content(folder)
    seen = repair(folder, "--dry-run")
    assert seen.exit_code == 1, seen.output
    assert ("given up" in seen.output) <= bool(case.options)
    assert content(folder) == before
    for words in case.said:
        assert words in seen.output
    if case.options:
        refused = repair(folder)
        assert refused.exit_code == 1
        assert " ".join(case.options) in refused.output
        assert content(folder) == before
    done = repair(folder, *case.options)
    assert done.exit_code == 0, done.output
    (backup,) = folder.glob("before-repair-*")
    for part in ("journal.sqlite", "journal.head"):
        assert part not in before or (backup / part).read_bytes() == before[part]
    assert repair(folder).output == f"{folder}: nothing is damaged\n"
    assert_ends_as_its_journal_says(settings, tmp_path)


def assert_ends_as_its_journal_says(settings: Settings, folder: Path) -> list[Record]:
    """Let the run go on, and hold its model against its rows; returns them."""
    result = go_on(settings, folder)
    assert (result.version, result.cause) == (5, "rounds")
    rows = list(read_journal(folder / RUN / "journal.sqlite"))
    accepted = [row for row in rows if isinstance(row, AcceptRecord)]
    assert len({row.lease for row in accepted}) == len(accepted)
    assert load_file(result.model)["weights"].tobytes() == replayed(settings, rows, folder / "scratch")
    return rows


def test_command_that_is_proposed_is_complete(tmp_path: Path, killed: KilledRun) -> None:
    """With half of the options the other half is asked for, beside it; every damage is still named."""
    killed.copy(tmp_path)
    folder = tmp_path / RUN
    flip(version_file(folder, 4))
    before = content(folder)
    result = repair(folder, "--discard-after", "42")
    assert result.exit_code == 1
    assert result.output.endswith(f"repair {folder} --discard-after 42 --void\n")
    assert "what was given is not enough: --void is needed as well" in result.output
    assert str(version_file(folder, 4)) in result.output
    assert content(folder) == before
    assert "--void --discard-after 42" in repair(folder, "--void").output


def test_version_whose_updates_no_longer_yield_it_is_given_up(tmp_path: Path, killed_inline: KilledRun) -> None:
    """Made again it is another one: that is not passed off as it, and the run goes back only when told to."""
    settings = killed_inline.copy(tmp_path)
    folder = tmp_path / RUN
    store = ModelStore(folder / "versions")
    other = replace(store.load(2), parameters=store.load(1).parameters)
    store.save(other)
    version_file(folder, 3).unlink()
    seen = repair(folder)
    assert seen.exit_code == 1
    assert "goes back to version 2" in seen.output
    (option,) = json.loads(repair(folder, "--json").output)["needs"]
    assert repair(folder, *option.split()).exit_code == 0
    assert go_on(settings, tmp_path).version == 5


def test_accepted_updates_whose_leases_are_lost_are_admitted_again(tmp_path: Path, killed: KilledRun) -> None:
    """Their files hold the leases, too: nobody who was told `accepted` is forgotten, and nobody counts twice."""
    settings, folder = killed.copy(tmp_path), tmp_path / RUN
    lose_rows(48)(folder, killed)
    seen = repair(folder, "--json")
    facts = json.loads(seen.output)
    assert [line[: len("the accepted update of d0")] for line in sorted(facts["brings_back"])] == [
        f"the accepted update of {device}" for device in ("d0", "d1", "d2")
    ]
    assert facts["needs"] == ["--discard-after 47"]
    assert repair(folder, "--discard-after", "47").exit_code == 0
    rows = assert_ends_as_its_journal_says(settings, tmp_path)
    told = [row for row in killed.rows[-LAST:] if isinstance(row, AcceptRecord)]
    now = {row.lease: row for row in rows if isinstance(row, AcceptRecord)}
    for row in told:
        assert (now[row.lease].device, now[row.lease].into, now[row.lease].sha256) == (row.device, row.into, row.sha256)


def test_version_is_made_again_from_the_journal_to_the_bit(tmp_path: Path, killed_inline: KilledRun) -> None:
    """The last two are damaged, and their updates are rows: nothing is lost, and nobody is asked."""
    settings, folder = killed_inline.copy(tmp_path), tmp_path / RUN
    before = [version_file(folder, version).read_bytes() for version in (2, 3)]
    flip(version_file(folder, 2))
    version_file(folder, 3).unlink()
    done = repair(folder)
    assert done.exit_code == 0, done.output
    assert "made again from version 1" in done.output
    assert "given up" not in done.output
    store = ModelStore(folder / "versions")
    for version, content_before in zip((2, 3), before, strict=True):
        scratch = ModelStore(tmp_path / "before")
        scratch.path(version).write_bytes(content_before)
        assert store.load(version).parameters.tobytes() == scratch.load(version).parameters.tobytes()
    assert_ends_as_its_journal_says(settings, tmp_path)


def test_rows_of_which_nobody_was_told_are_cut_without_asking(tmp_path: Path, killed: KilledRun) -> None:
    """The head is older: what came after it has no receipt; what is whole on disk is admitted again all the same."""
    settings, folder = killed.copy(tmp_path), tmp_path / RUN
    ends = [each.end for each in journalled(folder / "journal.sqlite")]
    head_file = HeadFile(folder / "journal.head")
    head_file.create()
    head_file.write(ends[50])
    head_file.close()
    change_row(53, "body", "{}")(folder, killed)
    done = repair(folder)
    assert done.exit_code == 0, done.output
    assert "nobody has been told" in done.output
    assert done.output.count("from its file") == LAST
    assert_ends_as_its_journal_says(settings, tmp_path)


def test_repair_that_was_cut_short_is_done_again(tmp_path: Path, killed: KilledRun) -> None:
    """Between its two renames: the head is new, the journal is the old one, its log is gone."""
    settings, folder = killed.copy(tmp_path), tmp_path / RUN
    change_row(20, "checksum", bytes(32))(folder, killed)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert repair(other).exit_code == 0
    shutil.copy(other / "journal.head", folder / "journal.head")
    (folder / "journal.sqlite.new").write_bytes(b"half of it")
    assert repair(folder).exit_code == 0
    assert_ends_as_its_journal_says(settings, tmp_path)


def test_journal_of_which_nothing_is_left_exits_2_with_a_way_on(tmp_path: Path, killed: KilledRun) -> None:
    """No row can be proved: a copy, or a new run from the last model."""
    killed.copy(tmp_path)
    folder = tmp_path / RUN
    spoil_settings_in_log(folder)
    (folder / "journal.sqlite").write_bytes(b"")
    # its log holds them; how many is a matter of pages
    assert re.search(r"\b[1-9]\d* of 56 rows can be read, but not the settings", repair(folder).output)
    (folder / "journal.sqlite-wal").unlink()
    before = content(folder)
    result = repair(folder)
    assert result.exit_code == 2
    assert "no row of the journal can be read" in result.output
    assert "server.init_from" in result.output
    assert content(folder) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--discard-after", "30"), "nothing has to be discarded"), (("--void",), "nothing is damaged")],
)
def test_whole_run_is_left_as_it_is(tmp_path: Path, killed: KilledRun, options: tuple[str, ...], says: str) -> None:
    """An option gives up only what is damaged."""
    killed.copy(tmp_path)
    before = content(tmp_path / RUN)
    assert says in repair(tmp_path / RUN, *options).output
    assert content(tmp_path / RUN) == before


@pytest.mark.parametrize("seq", [0, 52, 99])
def test_row_after_which_nothing_need_be_discarded_is_refused(tmp_path: Path, killed: KilledRun, seq: int) -> None:
    """More than what has to go may go, less may not, and something must be left."""
    killed.copy(tmp_path)
    lose_rows(52)(tmp_path / RUN, killed)
    result = repair(tmp_path / RUN, "--discard-after", str(seq))
    assert result.exit_code == 2
    assert "from 1 to 51" in result.output


def test_run_that_is_served_is_not_touched(tmp_path: Path, killed: KilledRun) -> None:
    """Exit code 4, naming who serves it."""
    killed.copy(tmp_path)
    with RunFolder(tmp_path / RUN):
        result = repair(tmp_path / RUN)
    assert result.exit_code == 4
    assert "pid" in result.output
    assert "stop that process first" in result.output
    assert "another name" not in result.output


def test_disk_that_is_full_exits_2_and_changes_nothing(tmp_path: Path, killed: KilledRun) -> None:
    """The copy comes first: without room for it nothing is touched."""
    killed.copy(tmp_path)
    folder = tmp_path / RUN
    change_row(20, "checksum", bytes(32))(folder, killed)
    before = content(folder)
    command = f"ulimit -f 16; exec {sys.executable} -B -m aggregator repair {folder}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=18)
    assert done.returncode == 2, done.stderr
    assert "make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(folder) == before


def test_folder_without_a_run_exits_2_and_is_left_empty(tmp_path: Path) -> None:
    """A wrong path creates nothing."""
    result = repair(tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "runs/<name>" in result.output
    assert not (tmp_path / "nowhere").exists()


def test_run_that_has_only_begun_is_whole(tmp_path: Path) -> None:
    """Killed right after its journal was made."""
    journal = JournalFile(tmp_path / "journal.sqlite", None)
    journal.open()
    journal.close()
    assert repair(tmp_path).output == f"{tmp_path}: nothing is damaged\n"
